package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"waypost/director"
)

// Paths of check and repair, both POST, for directors and admins. Both answer
// with a stream of CheckLine, one JSON object a line, the last with Done or
// Error.
const (
	// PathCheck (CheckRequest): read everything, change nothing.
	PathCheck = "/v1/check"
	// PathRepair (RepairRequest): mend what is derived, touch no message.
	PathRepair = "/v1/repair"
)

// CheckRequest asks about one user, or about all that a backend has anything of.
type CheckRequest struct {
	User director.User `json:"user,omitempty"`
	// Deep: the contents of messages are read, too.
	Deep bool `json:"deep,omitempty"`
}

// RepairRequest asks a user's home to mend.
type RepairRequest struct {
	User director.User `json:"user"`
	// Deep: look for what only the contents of messages tell.
	Deep bool `json:"deep,omitempty"`
}

// Level says how bad a finding is.
type Level string

const (
	// LevelProblem: something is not as it should be.
	LevelProblem Level = "problem"
	// LevelInfo: it does no harm, or goes by itself.
	LevelInfo Level = "info"
)

// Kinds of findings. They are stable: scripts may go by them.
const (
	KindFence      = "fence"      // fence and directory contradict each other: an alarm
	KindTwoHomes   = "two_homes"  // a tree is served, or was left, where the home is not
	KindBehind     = "behind"     // the fence does not follow the directory
	KindTree       = "tree"       // a tree that is missing, or should not be there
	KindStaging    = "staging"    // left over without a move
	KindTrash      = "trash"      // let go without what proves it
	KindOutbox     = "outbox"     // a message that no mx takes
	KindJournal    = "journal"    // the backend's journal has failed
	KindQuota      = "quota"      // the total is not that of the names, or not legible
	KindUIDList    = "uidlist"    // not legible
	KindUIDNext    = "uidnext"    // below UIDs that were given
	KindVanished   = "vanished"   // numbered, not expunged, and no file
	KindUnnumbered = "unnumbered" // a message without a UID where that is not usual
	KindState      = "state"      // the folder's state is not legible, or another folder's
	KindIndex      = "index"      // not usable: it is made anew
	KindKeywords   = "keywords"   // not legible
	KindLog        = "log"        // delivery ids or memories not legible
	KindTwice      = "twice"      // two files of one name
	KindSize       = "size"       // a name that is wrong about the size
	KindEmpty      = "empty"      // a message of no bytes
	KindZeros      = "zeros"      // a message that ends in zeros
	KindLitter     = "litter"     // left by a crash
	KindForeign    = "foreign"    // not of a mailbox
	KindDotlock    = "dotlock"    // another program may be at work
)

// Finding is one inconsistency.
type Finding struct {
	User    director.User      `json:"user,omitempty"`
	Backend director.BackendID `json:"backend,omitempty"`
	// Folder is a folder's name, empty for what is the user's or the backend's.
	Folder string `json:"folder,omitempty"`
	Kind   string `json:"kind"`
	Level  Level  `json:"level"`
	What   string `json:"what"`
	// Do says what to do about it.
	Do string `json:"do"`
}

// Problem tells whether something is to be done.
func (f Finding) Problem() bool { return f.Level == LevelProblem }

// Step is one thing that a repair did, or left to somebody.
type Step struct {
	Folder string `json:"folder,omitempty"`
	Text   string `json:"text"`
	// Left: it was not done.
	Left bool `json:"left,omitempty"`
}

// CheckLine is one line of the answer: a finding, a step, or how far it is.
type CheckLine struct {
	Finding *Finding `json:"finding,omitempty"`
	Step    *Step    `json:"step,omitempty"`
	// Verified is the result of PathVerify.
	Verified *Verified `json:"verified,omitempty"`
	// Checked of Total users.
	Checked int64 `json:"checked"`
	Total   int64 `json:"total"`
	Done    bool  `json:"done,omitempty"`
	// Error ends the stream instead of Done.
	Error *Error `json:"error,omitempty"`
}

// CheckWriter streams lines to the caller, and how far it is as a heartbeat.
// Safe for concurrent use; End must be called.
type CheckWriter struct {
	mu   sync.Mutex // held for one line
	enc  *json.Encoder
	rc   *http.ResponseController
	last CheckLine // how far it is
	told time.Time // when that was sent
	stop chan struct{}
	wg   sync.WaitGroup
}

// progressEvery is how often a caller is told how far it is, at most.
const progressEvery = 500 * time.Millisecond

// NewCheckWriter begins the answer: from here on, refusals are in the stream.
func NewCheckWriter(w http.ResponseWriter) *CheckWriter {
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	c := &CheckWriter{enc: json.NewEncoder(w), rc: http.NewResponseController(w), stop: make(chan struct{})}
	c.wg.Go(c.beat)
	return c
}

func (c *CheckWriter) beat() {
	t := time.NewTicker(heartbeat)
	defer t.Stop()
	for {
		select {
		case <-c.stop:
			return
		case <-t.C:
			c.mu.Lock()
			c.send(c.last)
			c.mu.Unlock()
		}
	}
}

// Finding sends one.
func (c *CheckWriter) Finding(f Finding) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.send(CheckLine{Finding: &f, Checked: c.last.Checked, Total: c.last.Total})
}

// Step sends one.
func (c *CheckWriter) Step(s Step) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.send(CheckLine{Step: &s, Checked: c.last.Checked, Total: c.last.Total})
}

// Verified sends the result.
func (c *CheckWriter) Verified(v Verified) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.send(CheckLine{Verified: &v, Checked: c.last.Checked, Total: c.last.Total})
}

// Progress tells how far it is, though not each time.
func (c *CheckWriter) Progress(checked, total int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = CheckLine{Checked: checked, Total: total}
	if time.Since(c.told) >= progressEvery {
		c.told = time.Now()
		c.send(c.last)
	}
}

// send has mu. A caller that is gone shows in the request's context.
func (c *CheckWriter) send(l CheckLine) {
	_ = c.rc.SetWriteDeadline(time.Now().Add(silence)) // the listener bounds whole answers; this one takes longer
	if c.enc.Encode(l) == nil {
		_ = c.rc.Flush()
	}
}

// End sends the last line.
func (c *CheckWriter) End(err error) {
	close(c.stop)
	c.wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.last
	l.Done = err == nil
	if err != nil {
		l.Error = AsError(err)
	}
	c.send(l)
}

// Check runs a check and calls fn with each line, the last included. An error of
// fn ends it and is returned.
func (c *Client) Check(ctx context.Context, req CheckRequest, fn func(CheckLine) error) error {
	return c.lines(ctx, PathCheck, req, fn)
}

// Repair runs a repair and calls fn with each line, the last included.
func (c *Client) Repair(ctx context.Context, req RepairRequest, fn func(CheckLine) error) error {
	return c.lines(ctx, PathRepair, req, fn)
}

// Verify has a home verify what a move brought, and calls fn with each line, the
// last included. An error of fn ends it and is returned.
func (c *Client) Verify(ctx context.Context, req VerifyRequest, fn func(CheckLine) error) error {
	return c.lines(ctx, PathVerify, req, fn)
}

func (c *Client) lines(ctx context.Context, path string, req any, fn func(CheckLine) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quiet := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer quiet.Stop()
	body, err := c.post(ctx, path, req)
	if err != nil {
		return err
	}
	defer body.Close()
	dec := json.NewDecoder(body)
	for {
		var l CheckLine
		quiet.Reset(silence)
		if err := dec.Decode(&l); err != nil {
			return fmt.Errorf("%s: the answer broke off: %w", path, errors.Join(err, context.Cause(ctx)))
		}
		if l.Error != nil {
			return fmt.Errorf("%s: %w", path, l.Error)
		}
		if err := fn(l); err != nil {
			return err
		}
		if l.Done {
			return nil
		}
	}
}
