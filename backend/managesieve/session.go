package managesieve

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"waypost/backend/link"
	"waypost/backend/mailbox"
	"waypost/backend/scripts"
)

// maxBadCommands in a row end a session.
const maxBadCommands = 20

// session is one connection. All of it belongs to the goroutine of Serve.
type session struct {
	srv     *Server
	scripts Scripts
	link    *link.Link
	parser  *parser
	log     *slog.Logger

	// id and client are for logs, and for who goes on with the session.
	id, client string

	// input and dropped are what another backend has read of the client, until the session
	// runs, and allowed how long the first command may take to come.
	input   []byte
	dropped []int64
	allowed time.Duration

	bad, commands int
	command       string // the one that is being executed
	over          bool
	// midway: nobody knows whether the command was done.
	midway bool
}

func newSession(srv *Server, ses *Session) *session {
	return &session{
		srv: srv, scripts: ses.Scripts, id: ses.ID, client: ses.Client, allowed: srv.opt.Idle,
		log: srv.opt.Log.With("user", string(ses.Scripts.User()), "client", ses.Client, "session", ses.ID),
	}
}

// attach gives it its connection.
func (s *session) attach(ctx context.Context, conn net.Conn) {
	opt := &s.srv.opt
	s.link = link.New(ctx, conn, s.scripts.Done(), link.Options{
		Write: opt.Write, Linger: opt.Linger, Moved: ErrMoved, Idle: ErrIdle,
		Before: s.input, Checkpoints: &s.srv.checkpoints, State: s.checkpoint,
		Points: link.Points{Base: s.base, AppendTip: s.appendTip},
	})
	s.parser = &parser{
		br: bufio.NewReaderSize(s.link, lineBytes), scriptBytes: opt.ScriptBytes, dropped: s.dropped,
		onLine: func() {
			s.link.Allow(s.allowed, s.parser.br.Buffered() == 0)
			s.allowed = opt.Idle
		},
		onLiteral: func() { s.link.Allow(opt.Literal, false) },
	}
	s.input, s.dropped = nil, nil
}

// run executes commands until LOGOUT.
func (s *session) run() error {
	for !s.over {
		cmd, err := s.parser.read()
		var bad syntaxError
		if err != nil && !errors.As(err, &bad) {
			return err
		}
		if err := s.link.Stopped(); err != nil {
			return err
		}
		if bad != "" {
			err = s.reject(string(bad))
		} else {
			err = s.execute(cmd)
		}
		if err != nil {
			return err
		}
		s.parser.forget()
	}
	return s.link.Out.Flush()
}

// farewell says BYE where the end is ours and the client can still hear it.
func (s *session) farewell(err error) {
	switch {
	case errors.Is(err, ErrMoved):
		s.write(response("BYE", "TRYLATER", "The mailbox is away for a moment, connect again."))
	case errors.Is(err, ErrIdle):
		s.write(response("BYE", "", "Idle for too long."))
	case errors.Is(err, ErrAbuse):
		s.write(response("BYE", "", "This is not ManageSieve."))
	case err != nil:
		return
	}
	s.link.Part()
}

// moved makes ErrMoved of what a fence says, or of any failure once the fence has
// left: whatever goes wrong then is the move's doing. Of such a failure nobody knows whether
// it changed anything, as one does of a fence's.
func (s *session) moved(err error) error {
	if err == nil || errors.Is(err, ErrMoved) {
		return err
	}
	over := slices.ContainsFunc([]error{mailbox.ErrStale, mailbox.ErrFrozen, mailbox.ErrRefused, mailbox.ErrClosed},
		func(end error) bool { return errors.Is(err, end) })
	if over || errors.Is(s.link.Stopped(), ErrMoved) {
		s.midway = !over
		return fmt.Errorf("%w: %w", ErrMoved, err)
	}
	return err
}

// lookup finds a command's handler (RFC 5804, Section 2), and the kinds of its
// arguments; those after a question mark may be missing.
func (s *session) lookup(name string) (do func([]arg) error, kinds string) {
	switch name {
	case "CAPABILITY":
		return s.capability, ""
	case "HAVESPACE":
		return s.haveSpace, "sn"
	case "PUTSCRIPT":
		return s.putScript, "ss"
	case "LISTSCRIPTS":
		return s.listScripts, ""
	case "SETACTIVE":
		return s.setActive, "s"
	case "GETSCRIPT":
		return s.getScript, "s"
	case "DELETESCRIPT":
		return s.deleteScript, "s"
	case "RENAMESCRIPT":
		return s.renameScript, "ss"
	case "CHECKSCRIPT":
		return s.checkScript, "s"
	case "NOOP":
		return s.noop, "?s"
	case "LOGOUT":
		return s.logout, ""
	case "UNAUTHENTICATE": // Section 2.14.1
		return s.refuse("Not offered here: log out and connect again."), ""
	case "STARTTLS":
		return s.refuse("Too late for STARTTLS."), ""
	case "AUTHENTICATE":
		return s.refuse("Already logged in."), "s?s"
	}
	return nil, ""
}

func (s *session) execute(cmd command) error {
	do, kinds := s.lookup(cmd.name)
	if do == nil {
		return s.reject("Unknown command.")
	}
	least, optional, _ := strings.Cut(kinds, "?")
	if kinds = least + optional; len(cmd.args) < len(least) || len(cmd.args) > len(kinds) {
		return s.reject("Wrong number of arguments.")
	}
	for i, a := range cmd.args {
		if a.kind != kinds[i] {
			return s.reject("An argument is of the wrong kind.")
		}
	}
	s.bad, s.command = 0, strings.ToLower(cmd.name)
	s.commands++
	for _, a := range cmd.args {
		if a.tooLong {
			return s.no("QUOTA/MAXSIZE", "That is too long.")
		}
	}
	return do(cmd.args)
}

// write buffers; the link sends it before it waits for the client, so that
// pipelined commands are answered in few packets. A failed write stays with the
// buffer and shows at the next flush.
func (s *session) write(text string) error {
	_, err := s.link.Out.WriteString(text)
	return err
}

func (s *session) ok(code, text string) error {
	s.srv.met.commands.WithLabelValues(s.command, "ok").Inc()
	return s.write(response("OK", code, text))
}

func (s *session) no(code, text string) error {
	s.srv.met.commands.WithLabelValues(s.command, "no").Inc()
	return s.write(response("NO", code, text))
}

// reject answers what cannot be understood, a limited number of times.
func (s *session) reject(why string) error {
	if s.bad++; s.bad > maxBadCommands {
		return fmt.Errorf("%w: %d bad commands in a row", ErrAbuse, s.bad)
	}
	return s.write(response("NO", "", why))
}

// refuse answers a command that is known and never done.
func (s *session) refuse(why string) func([]arg) error {
	return func([]arg) error { return s.no("", why) }
}

// answers are the store's errors as a user is told of them, with the response
// codes of RFC 5804, Section 1.3.
var answers = []struct {
	err        error
	code, text string
}{
	{scripts.ErrNonexistent, "NONEXISTENT", "There is no script of that name."},
	{scripts.ErrExists, "ALREADYEXISTS", "There is a script of that name already."},
	{scripts.ErrActive, "ACTIVE", "The active script cannot be deleted."},
	{scripts.ErrTooLarge, "QUOTA/MAXSIZE", "The script is too large."},
	{scripts.ErrTooMany, "QUOTA/MAXSCRIPTS", "There are too many scripts."},
	{scripts.ErrQuota, "QUOTA", "There is no space left for scripts."},
	{mailbox.ErrOverQuota, "QUOTA", "There is no space left in the mailbox."},
	{scripts.ErrBadName, "", "A script cannot have that name."},
	{mailbox.ErrNoSpace, "TRYLATER", "There is no space on the server now."},
}

// done answers a command by what the store returned; a fence ends the session
// instead.
func (s *session) done(err error, text string) error {
	if err == nil {
		return s.ok("", text)
	}
	if err = s.moved(err); errors.Is(err, ErrMoved) {
		return err
	}
	for _, a := range answers {
		if errors.Is(err, a.err) {
			return s.no(a.code, a.text)
		}
	}
	s.log.Error("managesieve: "+s.command+" failed", "err", err)
	return s.no("TRYLATER", "Something went wrong here, try again later.")
}

// capability is RFC 5804, Section 2.4. OWNER is for those who are logged in, and
// STARTTLS for those who are not (Section 1.7).
func (s *session) capability([]arg) error {
	o := &s.srv.opt
	list := [][2]string{
		{"IMPLEMENTATION", "Waypost"}, {"SIEVE", strings.Join(o.Extensions, " ")}, {"SASL", o.SASL},
		{"OWNER", string(s.scripts.User())}, {"VERSION", "1.0"},
	}
	if len(o.Notify) > 0 {
		list = append(list, [2]string{"NOTIFY", strings.Join(o.Notify, " ")})
	}
	if o.MaxRedirects > 0 {
		list = append(list, [2]string{"MAXREDIRECTS", strconv.Itoa(o.MaxRedirects)})
	}
	for _, c := range list {
		s.write(encodeString(c[0]) + " " + encodeString(c[1]) + "\r\n")
	}
	return s.ok("", "Capabilities listed.")
}

func (s *session) haveSpace(args []arg) error {
	return s.done(s.scripts.HaveSpace(args[0].text, int64(args[1].number)), "There is space.")
}

// putScript is RFC 5804, Section 2.6. The store is asked first: what does not fit
// need not be compiled.
func (s *session) putScript(args []arg) error {
	name, src := args[0].text, args[1].text
	if src == "" {
		return s.no("", "An empty script is not taken.")
	}
	if err := s.scripts.HaveSpace(name, int64(len(src))); err != nil {
		return s.done(err, "")
	}
	warnings, err := s.srv.opt.Compile(name, []byte(src))
	if err != nil {
		return s.no("", plainText(err.Error()))
	}
	if err := s.scripts.Put(name, []byte(src)); err != nil || warnings == "" {
		return s.done(err, "Script stored.")
	}
	return s.ok("WARNINGS", plainText(warnings))
}

func (s *session) checkScript(args []arg) error {
	warnings, err := s.srv.opt.Compile("", []byte(args[0].text))
	switch {
	case err != nil:
		return s.no("", plainText(err.Error()))
	case warnings != "":
		return s.ok("WARNINGS", plainText(warnings))
	}
	return s.ok("", "Script is valid.")
}

func (s *session) listScripts([]arg) error {
	list, err := s.scripts.List()
	if err != nil {
		return s.done(err, "")
	}
	for _, script := range list {
		line := encodeString(script.Name)
		if script.Active {
			line += " ACTIVE"
		}
		s.write(line + "\r\n")
	}
	return s.ok("", "Scripts listed.")
}

// setActive is RFC 5804, Section 2.8. A script that was brought here from
// elsewhere may be one that is not understood: it would filter nothing.
func (s *session) setActive(args []arg) error {
	name := args[0].text
	if name == "" {
		return s.done(s.scripts.SetActive(""), "No script is active.")
	}
	src, err := s.scripts.Get(name)
	if err != nil {
		return s.done(err, "")
	}
	if _, err := s.srv.opt.Compile(name, src); err != nil {
		return s.no("", plainText(err.Error()))
	}
	return s.done(s.scripts.SetActive(name), "Script is active.")
}

func (s *session) getScript(args []arg) error {
	src, err := s.scripts.Get(args[0].text)
	if err != nil {
		return s.done(err, "")
	}
	s.write(fmt.Sprintf("{%d}\r\n", len(src)))
	s.link.Out.Write(src)
	s.write("\r\n")
	return s.ok("", "Script sent.")
}

func (s *session) deleteScript(args []arg) error {
	return s.done(s.scripts.Delete(args[0].text), "Script deleted.")
}

func (s *session) renameScript(args []arg) error {
	return s.done(s.scripts.Rename(args[0].text, args[1].text), "Script renamed.")
}

// noop is RFC 5804, Section 2.13: the string comes back in the code TAG.
func (s *session) noop(args []arg) error {
	if len(args) == 0 {
		return s.ok("", "Done.")
	}
	return s.ok("TAG "+encodeString(args[0].text), "Done.")
}

func (s *session) logout([]arg) error {
	s.over = true
	return s.ok("", "Goodbye.")
}
