package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"waypost/internal/lmtp"
	"waypost/mx/spool/entries"
)

// send is one transaction for a batch of recipients. The error is a *holdError,
// and then nothing was sent.
func (a *attempt) send(ctx context.Context, h *host, rs []Recipient) (outcomes, error) {
	res := outcomes{}
	rs = a.writable(rs, res)
	if len(rs) == 0 {
		return res, nil
	}
	c, err := h.get(ctx, false)
	if err != nil {
		return nil, err
	}
	err = a.transfer(ctx, h, c, rs, res)
	if errors.Is(err, errReused) {
		if c, err = h.get(ctx, true); err != nil {
			return nil, err
		}
		err = a.transfer(ctx, h, c, rs, res)
	}
	if err == nil {
		h.worked()
		return res, nil
	}
	c.Close()
	var held *holdError
	if errors.As(err, &held) {
		return nil, held
	}
	if ctx.Err() == nil {
		a.log.Warn("connection to the smarthost broke", "smarthost", h.addr, "err", err)
		h.broke(err)
	}
	for _, r := range rs {
		if _, ok := res[r.To]; !ok {
			res[r.To] = putOff(err)
		}
	}
	return res, nil
}

// writable sorts out addresses that no command can carry.
func (a *attempt) writable(rs []Recipient, res outcomes) (kept []Recipient) {
	from := lmtp.CheckAddress(a.env.From)
	for _, r := range rs {
		switch {
		case from != nil:
			res[r.To] = outcome{verdict: failed, status: "5.1.7", text: "Sender address is not usable"}
		case r.To == "" || lmtp.CheckAddress(r.To) != nil:
			res[r.To] = outcome{verdict: failed, status: "5.1.3", text: "Recipient address is not usable"}
		default:
			kept = append(kept, r)
		}
	}
	return kept
}

// errReused: a connection that was idle broke before anything was sent by it.
var errReused = errors.New("idle connection had ended")

// unfit says why this server cannot have this message at all.
func (a *attempt) unfit(c *conn, rs []Recipient) (outcome, bool) {
	size, _ := c.Ext("SIZE")
	if most, err := strconv.ParseInt(size, 10, 64); err == nil && most > 0 && a.env.Size > most {
		return outcome{verdict: failed, status: "5.3.4", text: fmt.Sprintf("The message has %d bytes, and at most %d may leave", a.env.Size, most)}, true
	}
	if _, ok := c.Ext("8BITMIME"); !ok && a.env.EightBit && a.has8Bit() {
		return outcome{verdict: failed, status: "5.6.3", text: "The message has 8-bit text, which cannot be sent on"}, true
	}
	if _, ok := c.Ext("SMTPUTF8"); !ok && a.needsUTF8(rs) {
		return outcome{verdict: failed, status: "5.6.7", text: "The message or its addresses need SMTPUTF8, which cannot be sent on"}, true
	}
	return outcome{}, false
}

// has8Bit looks whether a message that was declared to be 8-bit is.
func (a *attempt) has8Bit() bool {
	msg, err := a.q.store.Message(entries.Queue, a.env.ID)
	if err != nil {
		return false // data finds out the same, and puts it off
	}
	defer msg.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := msg.Read(buf)
		for _, c := range buf[:n] {
			if c >= 0x80 {
				return true
			}
		}
		if err != nil {
			return false
		}
	}
}

func (a *attempt) needsUTF8(rs []Recipient) bool {
	if a.env.UTF8 || !ascii(a.env.From) {
		return true
	}
	for _, r := range rs {
		if !ascii(r.To) {
			return true
		}
	}
	return false
}

// transfer fills res. With an error the connection is of no more use, and who
// is not in res may or may not have been sent to.
func (a *attempt) transfer(ctx context.Context, h *host, c *conn, rs []Recipient, res outcomes) error {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	give := func() {
		if stop() {
			h.put(c)
		} else {
			c.Close()
		}
	}
	if o, yes := a.unfit(c, rs); yes {
		all(rs, o, res)
		give()
		return nil
	}
	mail, replies, err := c.MailRcpt(a.env.From, a.mailParams(c, rs), a.rcpts(c, rs))
	switch {
	case err != nil && c.reused:
		c.Close()
		return errReused
	case err != nil:
		return err
	case mail.Code == 421 || loginTrouble(mail):
		return h.down(errors.New("MAIL: " + mail.String()))
	case !mail.OK():
		all(rs, judge(mail), res)
		return a.again(c, give)
	}
	_, dsn := c.Ext("DSN")
	var accepted []Recipient
	for i, r := range rs {
		o := judge(replies[i])
		if o.passed = dsn; o.verdict == delivered {
			accepted = append(accepted, r)
			continue
		}
		res[r.To] = o
	}
	if len(accepted) == 0 {
		return a.again(c, give)
	}
	reply, err := a.data(c)
	if err != nil {
		return err
	}
	o := judge(reply)
	o.passed = dsn
	all(accepted, o, res)
	if reply.Code == 421 {
		c.Close()
		return nil
	}
	if o.verdict != delivered { // after a chunk was refused a server may want it
		return a.again(c, give)
	}
	give()
	return nil
}

func all(rs []Recipient, o outcome, res outcomes) {
	for _, r := range rs {
		res[r.To] = o
	}
}

// again ends the transaction; that the connection fails now is no harm.
func (a *attempt) again(c *conn, give func()) error {
	if c.Reset() != nil {
		c.Close()
		return nil
	}
	give()
	return nil
}

// data streams the message and gives the one answer.
func (a *attempt) data(c *conn) (lmtp.Reply, error) {
	msg, err := a.q.store.Message(entries.Queue, a.env.ID)
	if err != nil {
		return lmtp.Reply{}, err
	}
	defer msg.Close()
	var refused *lmtp.ReplyError
	w, err := c.Data()
	if errors.As(err, &refused) {
		return refused.Reply, nil
	}
	if err != nil {
		return lmtp.Reply{}, err
	}
	n, err := io.Copy(w, msg)
	if errors.As(err, &refused) {
		return refused.Reply, nil
	}
	if err != nil {
		return lmtp.Reply{}, err
	}
	if n != a.env.Size {
		return lmtp.Reply{}, fmt.Errorf("message in the queue has %d bytes, not %d", n, a.env.Size)
	}
	replies, err := w.Finish()
	if errors.As(err, &refused) { // of the chunk before the last
		return refused.Reply, nil
	}
	if err != nil {
		return lmtp.Reply{}, err
	}
	return replies[0], nil
}

// mailParams has what the submitter asked of reports, where the server will
// make them (RFC 3461, Section 4).
func (a *attempt) mailParams(c *conn, rs []Recipient) lmtp.MailParams {
	p := lmtp.MailParams{Size: a.env.Size, EightBit: a.env.EightBit, UTF8: a.needsUTF8(rs)}
	if _, ok := c.Ext("DSN"); !ok {
		return p
	}
	if a.env.Return != "" {
		p.Extra = append(p.Extra, lmtp.Param{Key: "RET", Value: a.env.Return})
	}
	if a.env.EnvelopeID != "" {
		p.Extra = append(p.Extra, lmtp.Param{Key: "ENVID", Value: lmtp.Xtext(a.env.EnvelopeID)})
	}
	return p
}

func (a *attempt) rcpts(c *conn, rs []Recipient) (out []lmtp.Recipient) {
	_, dsn := c.Ext("DSN")
	for _, r := range rs {
		to := lmtp.Recipient{To: r.To}
		if dsn && len(r.Notify) > 0 {
			to.Params = append(to.Params, lmtp.Param{Key: "NOTIFY", Value: strings.Join(r.Notify, ",")})
		}
		if kind, address, ok := strings.Cut(r.Original, ";"); ok && dsn && ascii(r.Original) {
			to.Params = append(to.Params, lmtp.Param{Key: "ORCPT", Value: kind + ";" + lmtp.Xtext(address)})
		}
		out = append(out, to)
	}
	return out
}
