package benchmark

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// profile is a CPU profile that is being taken.
type profile struct{ done chan error }

// takeProfile asks the process whose telemetry is at addr for a CPU profile of
// the time that follows, into a file.
func takeProfile(addr string, d time.Duration, file string) *profile {
	p := &profile{make(chan error, 1)}
	seconds := max(1, int(d/time.Second))
	go func() { // ends with the answer, for which wait waits
		p.done <- fetch(fmt.Sprintf("http://%s/debug/pprof/profile?seconds=%d", addr, seconds), file, time.Duration(seconds)*time.Second+startWait)
	}()
	return p
}

func (p *profile) wait() error { return <-p.done }

func fetch(url, file string, within time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return fmt.Errorf("profile: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("profile: %s: %s", res.Status, b)
	}
	return os.WriteFile(file, b, 0o644)
}
