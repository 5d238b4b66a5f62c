package control

import (
	"net/http"
)

// ProgressWriter streams a pull's progress to the caller, one JSON object a
// line, and repeats the last one as a heartbeat. Safe for concurrent use; End
// must be called. A caller that is gone shows in the request's context.
type ProgressWriter struct{ l *LineWriter }

// NewProgressWriter begins the answer: from here on, refusals are in the stream.
func NewProgressWriter(w http.ResponseWriter) *ProgressWriter {
	l := NewLineWriter(w)
	l.mu.Lock()
	l.alive = PullProgress{}
	l.mu.Unlock()
	return &ProgressWriter{l}
}

// Report sends one line.
func (p *ProgressWriter) Report(v PullProgress) {
	p.l.mu.Lock()
	defer p.l.mu.Unlock()
	p.l.alive = v
	_ = p.l.send(v, true)
}

// End sends the last line.
func (p *ProgressWriter) End(v PullProgress, err error) {
	p.l.Close()
	if err != nil {
		v.Done, v.Error = false, AsError(err)
	}
	p.Report(v)
}
