package imap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapserver"

	"waypost/backend/mailbox"
)

// session is the library's session: one method per command. The library calls
// them one after the other, but Idle from a goroutine that it does not wait
// for in every case; mu keeps that apart.
type session struct {
	srv  *Server
	ctx  context.Context // Serve's
	box  mailbox.Box
	data Session
	log  *slog.Logger
	c    *conn
	ic   *imapserver.Conn

	byeOnce  sync.Once
	finished chan struct{} // closed when the library is done with the session
	logout   bool          // valid after finished

	mu     sync.Mutex // guards all below
	view   *view      // of the selected folder, else nil
	saved  imap.UIDSet
	body   *openBody
	closed bool
	idling sync.WaitGroup // Idle calls; never added to once closed
}

var (
	_ imapserver.SessionMove        = (*session)(nil)
	_ imapserver.SessionNamespace   = (*session)(nil)
	_ imapserver.SessionAppendLimit = (*session)(nil)
)

// errEnded: the session has said BYE; the library stops at it without a word.
var errEnded = fmt.Errorf("session ended: %w", net.ErrClosed)

func newSession(ctx context.Context, srv *Server, data Session, c *conn) *session {
	return &session{
		srv: srv, ctx: ctx, box: data.Box, data: data, c: c, finished: make(chan struct{}),
		log: srv.log.With("user", data.Box.User(), "client", data.Client, "session", data.ID),
	}
}

// start is called before the greeting.
func (s *session) start(ic *imapserver.Conn) {
	s.ic = ic
	s.c.bye = s.bye
}

// bye says BYE and closes, once. It must not be called while a response is
// being written.
func (s *session) bye(why ending) {
	s.byeOnce.Do(func() {
		if err := s.ic.Bye(why.bye()); err != nil {
			s.log.Debug("imap BYE not sent", "error", err)
		}
	})
}

// why tells, after the end, what ended the session.
func (s *session) why() ending {
	switch why := s.c.ending(); {
	case s.logout:
		return endLogout
	case why != endNone:
		return why
	}
	return endGone
}

// Close is called by the library when it is done with the session.
func (s *session) Close() error {
	s.logout = s.c.in.verb() == "LOGOUT"
	s.mu.Lock()
	s.closed = true
	s.unselect()
	s.mu.Unlock()
	s.idling.Wait()
	close(s.finished)
	return nil
}

// no is a NO that is the client's affair.
func no(code imap.ResponseCode, text string) error {
	return &imap.Error{Type: imap.StatusResponseTypeNo, Code: code, Text: text}
}

func bad(text string) error {
	return &imap.Error{Type: imap.StatusResponseTypeBad, Code: imap.ResponseCodeClientBug, Text: text}
}

// fenced reports that the mailbox is not this session's any more.
func fenced(err error) bool {
	return errors.Is(err, mailbox.ErrStale) || errors.Is(err, mailbox.ErrFrozen) ||
		errors.Is(err, mailbox.ErrRefused) || errors.Is(err, mailbox.ErrClosed)
}

// renumbered reports that the UIDs the client knows are not the folder's.
func renumbered(err error) bool {
	return errors.Is(err, errView) || errors.Is(err, mailbox.ErrRenumbered)
}

// end says BYE and gives the error for the library. Not while a response is
// being written.
func (s *session) end(why ending) error {
	s.c.end(why)
	s.bye(s.c.ending())
	return errEnded
}

// fail turns an error of the mailbox into the answer to op.
func (s *session) fail(op string, err error) error {
	var answer *imap.Error
	switch {
	case errors.As(err, &answer), errors.Is(err, errEnded):
		return err
	case fenced(err):
		return s.end(endMoving)
	case renumbered(err):
		return s.end(endFolder)
	case errors.Is(err, mailbox.ErrNoFolder):
		return no(imap.ResponseCodeNonExistent, "no such mailbox")
	case errors.Is(err, mailbox.ErrFolderExists):
		return no(imap.ResponseCodeAlreadyExists, "mailbox exists already")
	case errors.Is(err, mailbox.ErrTooManyFolders):
		return no(imap.ResponseCodeLimit, "too many mailboxes")
	case errors.Is(err, mailbox.ErrBadName):
		return no(imap.ResponseCodeCannot, "mailbox name not possible")
	case errors.Is(err, mailbox.ErrOverQuota):
		return no(imap.ResponseCodeOverQuota, "over quota")
	case errors.Is(err, mailbox.ErrTooLarge):
		return no(imap.ResponseCodeTooBig, "message too large")
	case errors.Is(err, mailbox.ErrNoMessage):
		return no("EXPUNGEISSUED", "some of the messages no longer exist")
	}
	if s.c.ending() != endNone {
		return s.end(endStopping) // it failed because the session must end
	}
	s.srv.metrics.failures.Inc()
	s.log.Warn("imap command failed", "command", op, "error", err)
	return no(imap.ResponseCodeUnavailable, "temporary failure, please try again")
}

// failInto is fail where a missing folder could be made (RFC 9051, Section
// 6.3.12: TRYCREATE).
func (s *session) failInto(op string, err error) error {
	if errors.Is(err, mailbox.ErrNoFolder) {
		return no(imap.ResponseCodeTryCreate, "no such mailbox")
	}
	return s.fail(op, err)
}

// folderName takes INBOX in any case, also as the first part of a name.
func folderName(name string) string {
	first, rest, sub := strings.Cut(name, string(mailbox.Separator))
	if !strings.EqualFold(first, mailbox.Inbox) {
		return name
	}
	if sub {
		return mailbox.Inbox + string(mailbox.Separator) + rest
	}
	return mailbox.Inbox
}

// Login cannot happen: the greeting is PREAUTH.
func (s *session) Login(string, string) error { return bad("already authenticated") }

// Namespace implements RFC 2342.
func (s *session) Namespace() (*imap.NamespaceData, error) {
	return &imap.NamespaceData{Personal: []imap.NamespaceDescriptor{{Delim: mailbox.Separator}}}, nil
}

func (s *session) Create(name string, o *imap.CreateOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(o.SpecialUse) > 0 {
		return no("USEATTR", "special uses are not supported")
	}
	// A trailing separator only says that children will come (RFC 9051,
	// Section 6.3.4).
	name = folderName(strings.TrimSuffix(name, string(mailbox.Separator)))
	if err := s.box.CreateFolder(name); err != nil {
		return s.fail("CREATE", err)
	}
	return nil
}

func (s *session) Delete(name string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	name = folderName(name)
	if err := s.box.DeleteFolder(name); err != nil {
		return s.fail("DELETE", err)
	}
	if s.view != nil && s.view.name == name {
		s.view.dead = true
	}
	return nil
}

func (s *session) Rename(from, to string, _ *imap.RenameOptions) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	from, to = folderName(from), folderName(strings.TrimSuffix(to, string(mailbox.Separator)))
	if err := s.box.RenameFolder(from, to); err != nil {
		return s.fail("RENAME", err)
	}
	if s.view == nil || from == mailbox.Inbox {
		return nil
	}
	rest, below := strings.CutPrefix(s.view.name, from)
	if !below || rest != "" && rest[0] != mailbox.Separator {
		return nil
	}
	// The selected folder has another name now; its UIDs are the same if its
	// UIDVALIDITY is.
	folder, err := s.box.Folder(to + rest)
	if err != nil {
		s.view.dead = true
		return nil
	}
	s.dropBody()
	s.view.folder, s.view.name = folder, to+rest
	// From its Snapshot on the new handle knows which UIDs it may take.
	if snap, err := s.view.snapshot(); err != nil || snap.UIDValidity != s.view.uidValidity {
		s.c.end(endFolder)
	}
	return nil
}

func (s *session) Subscribe(name string) error   { return s.subscribe(name, true) }
func (s *session) Unsubscribe(name string) error { return s.subscribe(name, false) }

func (s *session) subscribe(name string, on bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.box.Subscribe(folderName(name), on); err != nil {
		return s.fail("SUBSCRIBE", err)
	}
	return nil
}

func (s *session) Status(name string, o *imap.StatusOptions) (*imap.StatusData, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o.DeletedStorage {
		return nil, bad("unknown STATUS data item")
	}
	data, err := s.status(folderName(name))
	if err != nil {
		return nil, s.fail("STATUS", err)
	}
	return data, nil
}

func (s *session) status(name string) (*imap.StatusData, error) {
	folder, err := s.box.Folder(name)
	if err != nil {
		return nil, err
	}
	st, err := folder.Status()
	if err != nil {
		return nil, err
	}
	number := func(n int) *uint32 { v := uint32(n); return &v }
	limit := s.AppendLimit()
	return &imap.StatusData{
		Mailbox: name, NumMessages: number(st.Messages), NumRecent: number(st.Recent),
		NumUnseen: number(st.Unseen), NumDeleted: number(st.Deleted), Size: &st.Bytes,
		UIDNext: imap.UID(st.UIDNext), UIDValidity: st.UIDValidity, AppendLimit: &limit,
	}, nil
}

// AppendLimit implements RFC 7889.
func (s *session) AppendLimit() uint32 { return uint32(s.srv.limits.AppendBytes) }

func (s *session) Append(name string, r imap.LiteralReader, o *imap.AppendOptions) (*imap.AppendData, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	name = folderName(name)
	flags, err := parseFlags(o.Flags)
	if err != nil {
		return nil, err
	}
	if r.Size() == 0 {
		return nil, no(imap.ResponseCodeCannot, "an empty message cannot be stored")
	}
	if _, err := s.box.Folder(name); err != nil {
		return nil, s.failInto("APPEND", err)
	}
	// An early word on what cannot fit: on disk a message is smaller, by half
	// at most. Append decides.
	if err := s.box.Fits(r.Size() / 2); err != nil {
		return nil, s.fail("APPEND", err)
	}
	whole := &exactly{r: r, left: r.Size()}
	staged, err := s.data.Store.Stage(s.ctx, "", whole, s.srv.limits.AppendBytes)
	if err != nil {
		return nil, s.failInto("APPEND", err)
	}
	defer staged.Discard()
	if whole.left != 0 {
		return nil, s.fail("APPEND", fmt.Errorf("stage: %w", io.ErrUnexpectedEOF))
	}
	validity, uid, err := s.box.Append(name, staged, flags, o.Time)
	if err != nil {
		return nil, s.failInto("APPEND", err)
	}
	s.srv.metrics.appended.Inc()
	return &imap.AppendData{UID: imap.UID(uid), UIDValidity: validity}, nil
}

// exactly makes an early end an error: the library gives io.EOF when the
// connection breaks inside of a literal.
type exactly struct {
	r    io.Reader
	left int64
}

func (e *exactly) Read(p []byte) (int, error) {
	n, err := e.r.Read(p)
	e.left -= int64(n)
	if err == io.EOF && e.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}
