package control

import (
	"encoding/json"
	"net/http"
	"sync"
)

// ProgressWriter streams a pull's progress to the caller, one JSON object a
// line. Safe for concurrent use.
type ProgressWriter struct {
	mu  sync.Mutex
	enc *json.Encoder
	rc  *http.ResponseController
}

// NewProgressWriter begins the answer: from here on, refusals are in the stream.
func NewProgressWriter(w http.ResponseWriter) *ProgressWriter {
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.WriteHeader(http.StatusOK)
	return &ProgressWriter{enc: json.NewEncoder(w), rc: http.NewResponseController(w)}
}

// Report sends one line. A caller that is gone shows in the request's context.
func (p *ProgressWriter) Report(v PullProgress) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.enc.Encode(v) == nil {
		_ = p.rc.Flush()
	}
}

// End sends the last line.
func (p *ProgressWriter) End(v PullProgress, err error) {
	if err != nil {
		v.Done, v.Error = false, AsError(err)
	}
	p.Report(v)
}
