// Package mount shows several mailbox.Boxes as one: the user's own, and others,
// each under a prefix, such as archives.
//
// # Names
//
// With Options.Inbox the personal Box's folder X is INBOX/X, and INBOX is INBOX; there is no
// other personal name. A mounted Box's folder X is Prefix+X, and its INBOX, if it has one, is the prefix
// without the separator at its end. What the personal Box has under such a name is
// hidden. Subscriptions are the personal Box's, whatever they name. Special uses
// are told of personal folders only.
//
// # What goes where
//
// What names a folder goes to its Box; quota, deliveries and memories are the
// personal Box's. Folders are not renamed from one Box to another (ErrBadName).
// Messages are copied to another Box one by one into staged ones, with their flags
// and dates, then appended in one step, all or none; at most MaxTransfer at once.
// They get another EmailID there. Move expunges them here after that: a crash in
// between leaves both.
//
// A mounted Box whose folders cannot be listed is left out of Folders, with a line
// in the log: the user's own mail can be read without its archives.
//
// # Lifetime
//
// The Box owns all it was made of, and Close closes them. Done is closed when any
// of them is done. It is safe for concurrent use, as they are.
package mount

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"waypost/backend/mailbox"
)

// MaxTransfer is how many messages one Copy or Move takes from one Box to another.
const MaxTransfer = 1000

// ErrTooMany: more than MaxTransfer. To a client it is what mailbox.ErrTooLarge is.
var ErrTooMany = fmt.Errorf("more than %d messages at once: %w", MaxTransfer, mailbox.ErrTooLarge)

// Mount is a Box under a prefix.
type Mount struct {
	// Prefix ends with mailbox.Separator, and is no other's.
	Prefix string
	Kind   mailbox.NamespaceKind
	Box    mailbox.Box
}

// base is the name of the Box's INBOX.
func (m *Mount) base() string { return strings.TrimSuffix(m.Prefix, string(mailbox.Separator)) }

// outer is the name that a folder of the Box has here.
func (m *Mount) outer(name string) string {
	if m.Prefix == "" {
		return name
	}
	if name == mailbox.Inbox {
		return m.base()
	}
	return m.Prefix + name
}

// Options are what a Box is made with.
type Options struct {
	// Stage is the store's (mailbox.Store).
	Stage func(ctx context.Context, header string, r io.Reader, max int64) (mailbox.Staged, error)
	Log   *slog.Logger
	// Inbox puts the personal folders below INBOX.
	Inbox bool
}

// box is the whole.
type box struct {
	mailbox.Box // the personal one
	o           Options
	// mounts has the personal one first, then the others, those with longer
	// prefixes before shorter ones.
	mounts []*Mount
	// ctx ends with Done or Close; tasks are the goroutines.
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{}
	tasks  sync.WaitGroup
	closed sync.Once
	warned sync.Once // of a hidden folder

	// mu guards what follows, and is held while the Boxes are asked for updates.
	mu     sync.Mutex
	past   map[uint64][]uint64
	order  []uint64
	merged merged
	over   bool
}

// New mounts boxes beside the personal one, and takes them all over.
func New(personal mailbox.Box, o Options, mounts ...Mount) mailbox.Box {
	b := &box{Box: personal, o: o, done: make(chan struct{}), past: make(map[uint64][]uint64)}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	for i := range mounts {
		b.mounts = append(b.mounts, &mounts[i])
	}
	slices.SortStableFunc(b.mounts, func(x, y *Mount) int { return len(y.Prefix) - len(x.Prefix) })
	own := &Mount{Box: personal}
	if o.Inbox {
		own.Prefix = mailbox.InboxPrefix
	}
	b.mounts = slices.Insert(b.mounts, 0, own)
	ends := make([]<-chan struct{}, len(b.mounts))
	for i, m := range b.mounts {
		ends[i] = m.Box.Done()
	}
	b.tasks.Go(func() {
		if waitAny(b.ctx, ends) {
			close(b.done)
			b.cancel()
		}
	})
	return b
}

// Done is mailbox.Box's.
func (b *box) Done() <-chan struct{} { return b.done }

// Close closes all Boxes.
func (b *box) Close() {
	b.closed.Do(func() {
		b.mu.Lock()
		b.over = true
		b.mu.Unlock()
		b.cancel()
		b.tasks.Wait()
		for _, m := range b.mounts {
			m.Box.Close()
		}
	})
}

// resolve finds a folder's Box, and its name there.
func (b *box) resolve(name string) (*Mount, string, error) {
	for _, m := range b.mounts[1:] {
		if name == m.base() {
			return m, mailbox.Inbox, nil
		}
		rest, ok := strings.CutPrefix(name, m.Prefix)
		if !ok {
			continue
		}
		if rest == "" || strings.EqualFold(rest, mailbox.Inbox) {
			return nil, "", fmt.Errorf("folder %q of %s: %w", name, b.User(), mailbox.ErrNoFolder)
		}
		return m, rest, nil
	}
	if !b.o.Inbox {
		return b.mounts[0], name, nil
	}
	inner, ok := strings.CutPrefix(name, mailbox.InboxPrefix)
	switch {
	case name == mailbox.Inbox:
		return b.mounts[0], name, nil
	case !ok || inner == "" || strings.EqualFold(inner, mailbox.Inbox):
		return nil, "", fmt.Errorf("folder %q of %s, whose folders are below INBOX: %w", name, b.User(), mailbox.ErrNoFolder)
	}
	return b.mounts[0], inner, nil
}

// fresh is resolve for a folder that is to be made.
func (b *box) fresh(name string) (*Mount, string, error) {
	m, inner, err := b.resolve(name)
	if err != nil {
		return nil, "", fmt.Errorf("folder %q of %s: %w", name, b.User(), mailbox.ErrBadName)
	}
	return m, inner, nil
}

// with runs do on a folder's Box.
func with[T any](b *box, name string, do func(mailbox.Box, string) (T, error)) (T, error) {
	m, inner, err := b.resolve(name)
	if err != nil {
		var none T
		return none, err
	}
	return do(m.Box, inner)
}

// without is with for what gives an error only.
func (b *box) without(name string, do func(mailbox.Box, string) error) error {
	m, inner, err := b.resolve(name)
	if err != nil {
		return err
	}
	return do(m.Box, inner)
}

// Append is mailbox.Box's.
func (b *box) Append(folder string, all []mailbox.NewMessage) (mailbox.AppendResult, error) {
	return with(b, folder, func(in mailbox.Box, name string) (mailbox.AppendResult, error) { return in.Append(name, all) })
}

// Metadata is mailbox.Box's.
func (b *box) Metadata(folder string) (map[string]string, error) {
	return with(b, folder, mailbox.Box.Metadata)
}

// SetMetadata is mailbox.Box's.
func (b *box) SetMetadata(folder string, change map[string]*string) error {
	return b.without(folder, func(in mailbox.Box, name string) error { return in.SetMetadata(name, change) })
}

// ACL is mailbox.Box's.
func (b *box) ACL(folder string) (mailbox.ACL, error) { return with(b, folder, mailbox.Box.ACL) }

// SetACL is mailbox.Box's.
func (b *box) SetACL(folder, identifier string, r mailbox.Rights) error {
	return b.without(folder, func(in mailbox.Box, name string) error { return in.SetACL(name, identifier, r) })
}

// Rights is mailbox.Box's.
func (b *box) Rights(folder string) (mailbox.Rights, error) {
	return with(b, folder, mailbox.Box.Rights)
}

// Namespaces is mailbox.Box's: one for each Box, beside those that the personal one
// has.
func (b *box) Namespaces() []mailbox.Namespace {
	all := slices.Clone(b.Box.Namespaces())
	for i := range all {
		if all[i].Prefix == "" {
			all[i].Prefix = b.mounts[0].Prefix
		}
	}
	for _, m := range b.mounts[1:] {
		all = append(all, mailbox.Namespace{Kind: m.Kind, Prefix: m.Prefix})
	}
	slices.SortFunc(all, func(x, y mailbox.Namespace) int { return strings.Compare(x.Prefix, y.Prefix) })
	return all
}
