package mx

import (
	"context"
	"io"
	"net/netip"
	"time"

	"github.com/emersion/go-smtp"

	"waypost/director"
	"waypost/mx/spool"
)

// Take is one message without SMTP around it, id its delivery id, unique for
// ever: the decisions at RCPT and at the
// end of DATA, and the spool behind them, are those of a session. message has
// CRLF line ends. What it returns is the answer to the sender: code 250 only
// when the message is durable.
func (srv *Server) Take(ctx context.Context, id, sender, rcpt string, message io.Reader) *smtp.SMTPError {
	if !srv.beginMessage() {
		return replyShutdown
	}
	defer srv.messages.Done()
	t := &transaction{
		srv: srv, id: id, log: srv.log.With("delivery", id), sender: sender,
		from:  client{netip.AddrPortFrom(netip.IPv6Loopback(), 25), "localhost"},
		trace: traceInfo{esmtp: true, date: time.Now()},
		users: map[director.User]*recipient{}, legs: map[director.BackendID]*leg{}, down: map[director.BackendID]error{},
	}
	defer t.close()
	if reply := t.rcpt(ctx, rcpt, &smtp.RcptOptions{}, replyRelay); reply != nil {
		return reply
	}
	reply, _ := t.deliver(message, func() bool { return false })
	return reply
}

// Waiting lists what is in the spool.
func (srv *Server) Waiting() []spool.Entry { return srv.spool.List() }
