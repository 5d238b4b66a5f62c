package proxy

import (
	"errors"
	"fmt"
	"time"

	"waypost/internal/deflate"
	"waypost/internal/frames"
)

// packing is a relay's part in COMPRESS=DEFLATE (RFC 4978), which ends here: backends
// see the client's bytes as they mean. A backend asks for it, over frames.
type packing struct {
	// stream is the backend's connection if that speaks frames; else nil.
	stream   *frames.Stream
	deflater *deflate.Deflater
	deflated bool              // what goes to the client; pumpDown's own
	inflater *deflate.Inflater // of what comes from the client; pumpUp's own
}

// compress is at the place in the backend's bytes where the client is told no more in
// plain. It wakes pumpUp, which may have let bytes pass already that are deflated.
func (r *relay) compress() {
	r.deflated = true
	_ = r.client.SetReadDeadline(past) // closed: pumpUp hears of it
}

func (r *relay) switchDue() bool { return r.stream != nil && r.stream.SwitchDue() }

// inflateUp begins to inflate, with what the backend has not taken.
func (r *relay) inflateUp() error {
	raw, err := r.stream.Switch()
	if err != nil {
		return err
	}
	r.inflater = new(deflate.Inflater)
	return r.inflate(raw)
}

// inflate gives the backend what p means. The window of the backend's stream bounds
// what a few bytes can come to: it is not taken faster than the backend takes it.
func (r *relay) inflate(p []byte) error {
	err := r.inflater.Write(p, func(q []byte) error {
		_, err := r.write(r.backend, q)
		return err
	})
	if errors.Is(err, deflate.ErrCorrupt) {
		return fmt.Errorf("%w: %w", errClientDeflate, err)
	}
	return err
}

// up gives the backend what came from the client.
func (r *relay) up(p []byte) error {
	if r.inflater != nil {
		return r.inflate(p)
	}
	n, err := r.write(r.backend, p)
	if !errors.Is(err, frames.ErrCompress) {
		return err
	}
	if err := r.inflateUp(); err != nil {
		return err
	}
	return r.inflate(p[n:])
}

// hangUp tells the backend that the client sends no more.
func (r *relay) hangUp() error {
	if r.stream == nil {
		half, ok := r.backend.(interface{ CloseWrite() error })
		if !ok {
			return errClientGone
		}
		return half.CloseWrite()
	}
	err := r.stream.HangUp()
	if !errors.Is(err, frames.ErrCompress) {
		return err
	}
	if err := r.inflateUp(); err != nil {
		return err
	}
	return r.stream.HangUp()
}

// down gives the client what came from the backend, and says as how many bytes.
func (r *relay) down(p []byte) (int, error) {
	if !r.deflated {
		return r.write(r.client, p)
	}
	buf := r.buffers.get()
	defer r.buffers.put(buf)
	return r.write(r.client, r.deflater.Append(buf[:0], p))
}

// say puts words of the proxy's own behind a session that has ended.
func (r *relay) say(line string) {
	if err := r.client.SetWriteDeadline(time.Now().Add(partingGrace)); err != nil {
		return
	}
	text := []byte(line)
	if r.deflated {
		text = r.deflater.Append(nil, text)
	}
	_, _ = r.client.Write(text) // it may not listen any more
}

// leave tells the backend, when the session has ended, whether that was the client's
// doing. What else ends a session here is no hang-up.
func (r *relay) leave(why error) {
	if r.stream == nil {
		return
	}
	for _, e := range []error{errIdle, errClientGone, errClientStuck, errClientDeflate} {
		if errors.Is(why, e) {
			_ = r.stream.HangUp() // or it has ended by itself
		}
	}
}
