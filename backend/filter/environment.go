package filter

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"waypost/backend/mailbox"
	"waypost/backend/scripts"
	"waypost/backend/sieve"
	"waypost/director"
)

func (r *run) environment() *sieve.Environment {
	return &sieve.Environment{
		From: r.in.From, To: r.in.To, Addresses: r.addresses(), Now: r.o.Now(),
		Domain: r.user.Domain(), Host: r.o.Hostname, Name: "Waypost",
		MailboxExists: r.exists, SpecialUse: r.specialUse, Remembered: r.remembered,
		Include: r.include, Spam: r.o.Spam, Virus: r.o.Virus,
	}
}

// addresses are the user's own: the name, and what the message was sent to.
func (r *run) addresses() []string {
	list := []string{string(r.user)}
	if to, _ := director.SplitSubaddress(r.in.To); to != list[0] && to != "" {
		list = append(list, to)
	}
	return list
}

func (r *run) remembered(_ context.Context, key string) (bool, error) {
	is, err := r.in.Box.Remembers(key)
	if err == nil && !is {
		if r.unknown == nil {
			r.unknown = map[string]bool{}
		}
		r.unknown[key] = true
	}
	return is, r.ours(err)
}

func (r *run) exists(_ context.Context, name string) (bool, error) {
	_, err := r.in.Box.Folder(r.o.Naming.In(name))
	if errors.Is(err, mailbox.ErrNoFolder) || errors.Is(err, mailbox.ErrBadName) {
		return false, nil
	}
	return err == nil, r.ours(err)
}

// specialUse gives the folder that has a special use.
func (r *run) specialUse(_ context.Context, use string) (string, bool, error) {
	list, err := r.in.Box.Folders()
	if err != nil {
		return "", false, r.ours(err)
	}
	for _, info := range list {
		if info.SpecialUse != "" && strings.EqualFold(info.SpecialUse, use) {
			return r.o.Naming.Out(info.Name), true, nil
		}
	}
	return "", false, nil
}

// include gives a script for include (RFC 6609, Section 3.2).
func (r *run) include(_ context.Context, where sieve.IncludeLocation, name string) (*sieve.Script, error) {
	src, err := r.included(where, name)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, scripts.ErrBadName):
		return nil, err // the script's own fault
	case err != nil:
		return nil, r.ours(err)
	}
	if where == sieve.IncludeGlobal {
		name = siteName(name)
	}
	c := r.cache.compile(name, src, sha256.Sum256(src))
	return c.script, c.err
}

func (r *run) included(where sieve.IncludeLocation, name string) ([]byte, error) {
	switch {
	case where == sieve.IncludePersonal:
		src, err := r.o.Scripts.Script(r.in.Box, name)
		if errors.Is(err, scripts.ErrNonexistent) {
			err = fmt.Errorf("%w: %w", fs.ErrNotExist, err)
		}
		return src, err
	case r.o.Global == "" || !sieve.ValidScriptName(name):
		return nil, fs.ErrNotExist
	}
	return os.ReadFile(filepath.Join(r.o.Global, name+".sieve"))
}
