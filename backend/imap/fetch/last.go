package fetch

import (
	"io"

	"waypost/backend/mailbox"
)

// keepFrom is the size from which on a message stays open, in bytes.
const keepFrom = 256 << 10

// Last keeps the message that was opened last, if it is a large one: clients fetch it in pieces, one
// command after the other, and beginning anew for each would read it over and over. It is one
// session's, for a Source's Open. The zero value is ready; Drop must be called when the folder
// is left.
type Last struct {
	uid  mailbox.UID
	body *keptBody
}

// Open gives the message with that UID, by open if it is not the last one. The Body is valid
// until the next call of Open or Drop.
func (l *Last) Open(uid mailbox.UID, open func(mailbox.UID) (mailbox.Body, error)) (mailbox.Body, error) {
	if l.body != nil && l.uid == uid && !l.body.failed {
		return l.body, nil
	}
	if err := l.Drop(); err != nil {
		return nil, err
	}
	b, err := open(uid)
	if err != nil || b.WireSize() < keepFrom {
		return b, err
	}
	l.uid, l.body = uid, &keptBody{Body: b}
	return l.body, nil
}

// Drop closes what is open.
func (l *Last) Drop() error {
	if l.body == nil {
		return nil
	}
	b := l.body.Body
	l.body = nil
	return b.Close()
}

// keptBody knows where it is, so that going there costs nothing.
type keptBody struct {
	mailbox.Body
	pos    int64
	failed bool
}

// Read implements io.Reader.
func (k *keptBody) Read(p []byte) (int, error) {
	n, err := k.Body.Read(p)
	k.pos += int64(n)
	k.failed = k.failed || err != nil && err != io.EOF
	return n, err
}

// Seek implements io.Seeker.
func (k *keptBody) Seek(offset int64, whence int) (int64, error) {
	if whence == io.SeekStart && offset == k.pos {
		return offset, nil
	}
	at, err := k.Body.Seek(offset, whence)
	k.pos, k.failed = at, k.failed || err != nil
	return at, err
}

// Close leaves it open.
func (k *keptBody) Close() error { return nil }
