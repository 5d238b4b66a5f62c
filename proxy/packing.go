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
	held     held              // pumpUp's own
}

// held are the client's bytes that came and that no backend has taken. It is bounded: by
// the window of a stream, one read, and what inflateBytes can come to.
type held struct {
	meant  []byte // inflated
	asSent []byte // behind those, as the client sent them
}

// inflateBytes of the client's are inflated at once: about a thousand times as much can
// come out, and is held if a backend lets go of the session meanwhile.
const inflateBytes = 1 << 10

// compress is at the place in the backend's bytes where the client is told no more in
// plain. It wakes pumpUp, which may have let bytes pass already that are deflated.
func (r *relay) compress() {
	r.deflated = true
	_ = r.client.SetReadDeadline(past) // closed: pumpUp hears of it
	r.wake()
}

func (r *relay) switchDue() bool { return r.stream != nil && r.stream.SwitchDue() }

// inflateUp begins to inflate, with what the backend has not taken, and rest behind that.
func (r *relay) inflateUp(rest []byte) error {
	raw, err := r.stream.Switch()
	rest = append(raw, rest...)
	if err != nil {
		r.held.asSent = append(r.held.asSent, rest...)
		if !r.stream.SwitchDue() {
			r.inflater = new(deflate.Inflater)
		}
		return err
	}
	r.inflater = new(deflate.Inflater)
	return r.inflate(rest)
}

// inflate gives the backend what p means. The window of the backend's stream bounds
// what a few bytes can come to: it is not taken faster than the backend takes it. What
// the backend does not take at all is held.
func (r *relay) inflate(p []byte) error {
	for len(p) > 0 {
		piece := p[:min(len(p), inflateBytes)]
		p = p[len(piece):]
		var refused error
		err := r.inflater.Write(piece, func(q []byte) error {
			var n int
			if refused == nil {
				n, refused = r.write(r.backend, q)
			}
			r.held.meant = append(r.held.meant, q[n:]...)
			return nil // an error would be the end of the inflater
		})
		if errors.Is(err, deflate.ErrCorrupt) {
			return fmt.Errorf("%w: %w", errClientDeflate, err)
		}
		if refused != nil {
			r.held.asSent = append(r.held.asSent, p...)
			return refused
		}
	}
	return nil
}

// up gives the backend what came from the client, or has it held.
func (r *relay) up(p []byte) error {
	if r.inflater != nil {
		return r.inflate(p)
	}
	n, err := r.write(r.backend, p)
	if errors.Is(err, frames.ErrCompress) {
		return r.inflateUp(p[n:])
	}
	if err != nil {
		r.held.asSent = append(r.held.asSent, p[n:]...)
	}
	return err
}

// takeOver gathers what the next backend is to be given first: what the last one did not
// read, and what it was not given. Nothing else of the relay runs.
func (r *relay) takeOver(unconsumed []byte) {
	if r.inflater != nil {
		r.held.meant = append(unconsumed, r.held.meant...)
		return
	}
	r.held.asSent = append(unconsumed, r.held.asSent...)
	if r.stream.SwitchDue() { // it will not be asked for again
		r.inflater = new(deflate.Inflater)
	}
}

// giveHeld gives a new backend what is held.
func (r *relay) giveHeld() error {
	h := r.held
	r.held = held{}
	if len(h.meant) > 0 {
		if n, err := r.write(r.backend, h.meant); err != nil {
			r.held = held{h.meant[n:], h.asSent}
			return err
		}
	}
	if len(h.asSent) == 0 {
		return nil
	}
	return r.up(h.asSent)
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
	if err := r.inflateUp(nil); err != nil {
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
