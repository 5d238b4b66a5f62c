package mx

import (
	"errors"
	"sync"
	"time"

	"waypost/internal/lmtp"
)

// leg is one transaction at a home, as part of ours. From start on its
// connection belongs to its goroutine; only Close may be called besides.
type leg struct {
	*conn
	rcpts []*recipient // in the order in which the home accepted them

	queue  chan []byte   // pieces that the home has not taken yet
	failed chan struct{} // closed when it takes no more
	done   chan struct{} // closed when the goroutine ended
	once   sync.Once

	// Set before done is closed.
	replies []lmtp.Reply
	err     error
}

// queuedPieces bounds what one home may lag behind.
const queuedPieces = 8

// errStall: the home took nothing for too long.
var errStall = errors.New("home stalls")

func newLeg(c *conn) *leg {
	return &leg{conn: c, queue: make(chan []byte, queuedPieces), failed: make(chan struct{}), done: make(chan struct{})}
}

// start begins the message. stall bounds each write and each reply but those
// at the end.
func (l *leg) start(stall time.Duration) {
	l.SetTimeout(stall)
	go l.run()
}

func (l *leg) run() {
	defer close(l.done)
	w, err := l.Data()
	if err == nil {
		for b := range l.queue {
			if _, err = w.Write(b); err != nil {
				break
			}
		}
	}
	if err == nil {
		l.replies, l.err = w.Finish()
		return
	}
	l.err = err
	close(l.failed)
	for range l.queue { // until the sender has seen it
	}
}

// send hands over the next piece; false: the home is lost.
func (l *leg) send(b []byte, stall time.Duration) bool {
	select {
	case l.queue <- b:
		return true
	case <-l.failed:
		return false
	default:
	}
	timer := time.NewTimer(stall)
	defer timer.Stop()
	select {
	case l.queue <- b:
		return true
	case <-l.failed:
		return false
	case <-timer.C:
		return false
	}
}

// finish ends the message; the goroutine goes on to fetch the replies.
func (l *leg) finish() { l.once.Do(func() { close(l.queue) }) }

// abort ends the leg so that the home delivers nothing: the connection goes
// before the message's end can be sent.
func (l *leg) abort() {
	l.Close()
	l.finish()
}

// wait waits for the replies.
func (l *leg) wait() ([]lmtp.Reply, error) {
	<-l.done
	return l.replies, l.err
}
