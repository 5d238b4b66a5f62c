package sieve

import (
	"cmp"
	"context"
	"time"
)

// IncludeLocation is where an included script is kept (RFC 6609, Section 3.2).
type IncludeLocation byte

const (
	IncludePersonal IncludeLocation = iota
	IncludeGlobal
)

func (l IncludeLocation) String() string {
	if l == IncludeGlobal {
		return "global"
	}
	return "personal"
}

// Lists are the external lists of RFC 6134, such as an address book.
type Lists interface {
	// Valid reports whether there is such a list.
	Valid(list string) bool
	// Contains reports whether a value is in a list.
	Contains(ctx context.Context, list, value string) (bool, error)
	// Members gives a list's addresses, for "redirect :list".
	Members(ctx context.Context, list string) ([]string, error)
}

// Environment is what a run knows beside the message. Functions may be nil:
// then there are no such mailboxes, memories, scripts or lists. An error of
// theirs fails the script.
type Environment struct {
	// From is the envelope sender, empty for the null sender. To is the envelope
	// recipient as the sender wrote it, with its subaddress. Auth is who the
	// sender logged in as, empty if it did not.
	From, To, Auth string
	// Separator parts user and detail of an address; default "+".
	Separator string
	// Addresses are the user's own, the primary one first: replies come from it.
	Addresses []string

	// Now is the time of the run, zero for the present; Zone the user's time
	// zone, nil for UTC.
	Now  time.Time
	Zone *time.Location

	// Items of the environment test (RFC 5183, Section 4.1), and those of the
	// "vnd." kind.
	Domain, Host, RemoteHost, RemoteIP string
	Name, Version                      string // of the product
	Location, Phase                    string // default "MDA" and "during"
	Vendor                             map[string]string

	// MailboxExists tells whether the user can file into a mailbox.
	MailboxExists func(ctx context.Context, name string) (bool, error)
	// SpecialUse gives the mailbox that has a special use such as \Junk.
	SpecialUse func(ctx context.Context, use string) (name string, ok bool, err error)
	// Remembered tells whether a key of Result.Memories is still remembered.
	Remembered func(ctx context.Context, key string) (bool, error)
	// Include gives a compiled script; fs.ErrNotExist where there is none.
	Include func(ctx context.Context, where IncludeLocation, name string) (*Script, error)
	Lists   Lists

	// Spam and Virus read the verdict of a filter; nil says untested.
	Spam, Virus *Score

	// Vacation bounds the time between two replies to one sender; zero is a
	// minimum of 1 day, a default of 7, a maximum of 60.
	VacationMin, VacationDefault, VacationMax time.Duration
	// Duplicate bounds how long the duplicate test remembers; zero is a default
	// of 7 days, a maximum of 30.
	DuplicateDefault, DuplicateMax time.Duration
}

const day = 24 * time.Hour

// filled gives a copy with its defaults filled in.
func (e *Environment) filled() *Environment {
	if e == nil {
		e = &Environment{}
	}
	f := *e
	if f.Now.IsZero() {
		f.Now = time.Now()
	}
	if f.Zone == nil {
		f.Zone = time.UTC
	}
	f.Location, f.Phase = cmp.Or(f.Location, "MDA"), cmp.Or(f.Phase, "during")
	f.VacationMin, f.VacationMax = cmp.Or(f.VacationMin, day), cmp.Or(f.VacationMax, 60*day)
	f.VacationDefault = max(cmp.Or(f.VacationDefault, 7*day), f.VacationMin)
	f.DuplicateDefault, f.DuplicateMax = cmp.Or(f.DuplicateDefault, 7*day), cmp.Or(f.DuplicateMax, 30*day)
	return &f
}

func (e *Environment) separator() string { return cmp.Or(e.Separator, "+") }

// item gives an item of the environment test; name is in lower case.
func (e *Environment) item(name string) (string, bool) {
	switch name {
	case "domain":
		return e.Domain, e.Domain != ""
	case "host":
		return e.Host, e.Host != ""
	case "location":
		return e.Location, true
	case "name":
		return e.Name, e.Name != ""
	case "phase":
		return e.Phase, true
	case "remote-host":
		return e.RemoteHost, true
	case "remote-ip":
		return e.RemoteIP, e.RemoteIP != ""
	case "version":
		return e.Version, e.Version != ""
	}
	v, ok := e.Vendor[name]
	return v, ok
}

// primary gives the user's primary address.
func (e *Environment) primary() string {
	if len(e.Addresses) > 0 {
		return e.Addresses[0]
	}
	return e.To
}
