package control

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

// heartbeat is how often a stream says that it lives, while it has nothing else to say;
// silence is how long a caller waits for that.
const (
	heartbeat = 5 * time.Second
	silence   = 30 * time.Second
)

// LineWriter streams objects to the caller, one a line of JSON, and an empty one
// as a sign of life. Safe for concurrent use; Close must be called.
type LineWriter struct {
	mu    sync.Mutex // held for one line
	alive any        // the sign of life
	enc   *json.Encoder
	rc    *http.ResponseController
	err   error
	stop  chan struct{}
	wg    sync.WaitGroup
}

// NewLineWriter begins the answer: from here on, refusals are in the stream.
func NewLineWriter(w http.ResponseWriter) *LineWriter {
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	l := &LineWriter{alive: struct{}{}, enc: json.NewEncoder(w), rc: http.NewResponseController(w), stop: make(chan struct{})}
	l.wg.Go(l.beat)
	return l
}

func (l *LineWriter) beat() {
	t := time.NewTicker(heartbeat)
	defer t.Stop()
	for {
		select {
		case <-l.stop:
			return
		case <-t.C:
			l.mu.Lock()
			_ = l.send(l.alive, true) // the first error is kept
			l.mu.Unlock()
		}
	}
}

// Send writes a line, and sends it off at once if now is set. It gives the first
// error there was: the caller is gone.
func (l *LineWriter) Send(v any, now bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.send(v, now)
}

// send is Send; the caller holds mu.
func (l *LineWriter) send(v any, now bool) error {
	if l.err != nil {
		return l.err
	}
	_ = l.rc.SetWriteDeadline(time.Now().Add(silence)) // the listener bounds whole answers; this one takes longer
	l.err = l.enc.Encode(v)
	if l.err == nil && now {
		l.err = l.rc.Flush()
	}
	return l.err
}

// Close ends the signs of life.
func (l *LineWriter) Close() {
	close(l.stop)
	l.wg.Wait()
}
