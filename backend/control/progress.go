package control

import (
	"encoding/json"
	"net/http"
	"sync"
	"time"
)

// heartbeat is how often a pull says that it lives, while it has nothing else
// to say; silence is how long a caller waits for that.
const (
	heartbeat = 5 * time.Second
	silence   = 30 * time.Second
)

// ProgressWriter streams a pull's progress to the caller, one JSON object a
// line, and repeats the last one as a heartbeat. Safe for concurrent use; End
// must be called.
type ProgressWriter struct {
	mu   sync.Mutex
	enc  *json.Encoder
	rc   *http.ResponseController
	last PullProgress
	stop chan struct{}
	wg   sync.WaitGroup
}

// NewProgressWriter begins the answer: from here on, refusals are in the stream.
func NewProgressWriter(w http.ResponseWriter) *ProgressWriter {
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	p := &ProgressWriter{enc: json.NewEncoder(w), rc: http.NewResponseController(w), stop: make(chan struct{})}
	p.wg.Go(p.beat)
	return p
}

func (p *ProgressWriter) beat() {
	t := time.NewTicker(heartbeat)
	defer t.Stop()
	for {
		select {
		case <-p.stop:
			return
		case <-t.C:
			p.mu.Lock()
			p.send(p.last)
			p.mu.Unlock()
		}
	}
}

// Report sends one line. A caller that is gone shows in the request's context.
func (p *ProgressWriter) Report(v PullProgress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last = v
	p.send(v)
}

func (p *ProgressWriter) send(v PullProgress) {
	// The listener bounds whole answers; a pull of a large mailbox takes longer.
	_ = p.rc.SetWriteDeadline(time.Now().Add(silence))
	if p.enc.Encode(v) == nil {
		_ = p.rc.Flush()
	}
}

// End sends the last line.
func (p *ProgressWriter) End(v PullProgress, err error) {
	close(p.stop)
	p.wg.Wait()
	if err != nil {
		v.Done, v.Error = false, AsError(err)
	}
	p.Report(v)
}
