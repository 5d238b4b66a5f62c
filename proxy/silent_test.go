package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"waypost/internal/frames"
)

// silent is a backend's connection that is lost because nothing came for too long: its
// error is of a deadline, too, but not of the relay's.
type silent struct{ net.Conn }

func (silent) Read([]byte) (int, error) {
	return 0, fmt.Errorf("%w: %w", frames.ErrLost, os.ErrDeadlineExceeded)
}

func (silent) SetReadDeadline(time.Time) error { return nil }

// A connection that fell silent was asked again and again, for as long as the session might idle.
func TestSilentBackendIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, client := net.Pipe()
		_, backend := net.Pipe()
		r := &relay{client: client, backend: silent{backend}, bytesIn: func(int) {}, bytesOut: func(int) {}, idleAfter: time.Minute,
			writeTimeout: time.Minute, buffers: new(bufferPool)}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		began := time.Now()
		if err := r.run(ctx); !errors.Is(err, errBackendLost) || time.Since(began) > 0 {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}
