package cli

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// supervisor tells systemd how a role is (sd_notify(3)); without NOTIFY_SOCKET
// every call does nothing.
type supervisor struct {
	healthURL string // "" where the role has no metrics listener
	warn      func(format string, args ...any)
	wg        sync.WaitGroup
	once      sync.Once
	ended     chan struct{}
}

func newSupervisor(metrics string, warn func(string, ...any)) *supervisor {
	s := &supervisor{warn: warn, ended: make(chan struct{})}
	if metrics != "" {
		s.healthURL = "http://" + metrics + "/healthz"
	}
	return s
}

func (s *supervisor) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		s.warn("systemd was not told %s: %v", state, err)
	}
}

// ready says that the role serves, and feeds the watchdog from then on until
// ctx ends: while it drains, systemd counts TimeoutStopSec instead.
func (s *supervisor) ready(ctx context.Context) {
	s.notify(daemon.SdNotifyReady)
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		s.warn("systemd's watchdog: %v", err)
	}
	if err != nil || interval <= 0 {
		return
	}
	s.wg.Go(func() { s.feed(ctx, interval) })
}

// feed gives a sign of life thrice per interval, as long as there is life.
func (s *supervisor) feed(ctx context.Context, interval time.Duration) {
	ticker := time.NewTicker(interval / 3)
	defer ticker.Stop()
	for {
		if s.healthy(ctx, interval/4) {
			s.notify(daemon.SdNotifyWatchdog)
		}
		select {
		case <-ctx.Done():
			return
		case <-s.ended:
			return
		case <-ticker.C:
		}
	}
}

// healthy asks the process's own /healthz, where there is one: so the watchdog
// sees a process whose goroutines no longer get on, not only a dead one.
func (s *supervisor) healthy(ctx context.Context, within time.Duration) bool {
	if s.healthURL == "" {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.healthURL, nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, 4096))
	return err == nil && resp.StatusCode == http.StatusOK
}

func (s *supervisor) stopping() {
	s.once.Do(func() { s.notify(daemon.SdNotifyStopping) })
}

// end waits for what ready has started.
func (s *supervisor) end() {
	s.stopping()
	close(s.ended)
	s.wg.Wait()
}
