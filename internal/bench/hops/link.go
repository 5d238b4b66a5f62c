package hops

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// A frame on the connection between proxy and server: a stream's number and the payload's length,
// each of four bytes, big-endian, and the payload. An empty one ends the stream: nobody
// speaks of it again.
const (
	headerBytes = 8
	// opens, in the length, is a stream's first line.
	opens = 1 << 31
	// maxPayload and lineBytes bound what is read at once: longer answers are several frames,
	// and longer lines end the session.
	maxPayload, lineBytes = 32 << 10, 4 << 10
)

var errFrame = errors.New("malformed frame")

// frameReader is the receiving end, which one goroutine has.
type frameReader struct {
	r    *bufio.Reader
	used int // of the last payload
}

func newFrameReader(nc net.Conn) *frameReader {
	return &frameReader{r: bufio.NewReaderSize(nc, 2*maxPayload)}
}

// next gives a frame. The payload is good until the next call.
func (f *frameReader) next() (stream uint32, first bool, payload []byte, err error) {
	if _, err := f.r.Discard(f.used); err != nil {
		return 0, false, nil, err
	}
	f.used = 0
	header, err := f.r.Peek(headerBytes)
	if err != nil {
		return 0, false, nil, err
	}
	stream, n := binary.BigEndian.Uint32(header), binary.BigEndian.Uint32(header[4:])
	first, n = n&opens != 0, n&^opens
	if n > maxPayload {
		return 0, false, nil, fmt.Errorf("%w: of %d bytes", errFrame, n)
	}
	frame, err := f.r.Peek(headerBytes + int(n))
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	f.used = len(frame)
	return stream, first, frame[min(headerBytes, len(frame)):], err
}

// frameWriter is the sending end, which all sessions share.
type frameWriter struct {
	nc  net.Conn
	mu  sync.Mutex
	out []byte
}

// write sends a payload, and with ends the stream's end, at once.
func (f *frameWriter) write(stream uint32, flag uint32, payload []byte, ends bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.out = f.out[:0]
	for len(payload) > 0 {
		p := payload[:min(len(payload), maxPayload)]
		payload = payload[len(p):]
		f.out = binary.BigEndian.AppendUint32(f.out, stream)
		f.out = binary.BigEndian.AppendUint32(f.out, uint32(len(p))|flag)
		f.out = append(f.out, p...)
	}
	if ends {
		f.out = binary.BigEndian.AppendUint32(f.out, stream)
		f.out = binary.BigEndian.AppendUint32(f.out, 0)
	}
	_, err := f.nc.Write(f.out)
	return err
}
