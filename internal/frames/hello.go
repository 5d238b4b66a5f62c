package frames

import (
	"bytes"
	"encoding/json"
	"strconv"

	"waypost/internal/wire"
)

// opening is the payload of OPEN or RESUME.
type opening struct {
	wire.Hello
	// Points: the proxy takes POINT, and checkpoints that are ahead.
	Points bool `json:"points,omitempty"`
}

// encodeHello gives the payload of OPEN or RESUME.
func encodeHello(h wire.Hello, points bool) ([]byte, error) {
	text, err := json.Marshal(opening{h, points})
	if err == nil && len(text) > maxLine {
		err = wire.ErrLine
	}
	return text, err
}

// welcomeOK is the Welcome of nearly every session, as encoding/json writes it.
const welcomeOK = `{"status":"ok"}`

func encodeWelcome(w wire.Welcome) ([]byte, error) {
	if w == (wire.Welcome{Status: wire.StatusOK}) {
		return []byte(welcomeOK), nil
	}
	return json.Marshal(w)
}

func decodeWelcome(text []byte) (w wire.Welcome, err error) {
	if string(text) == welcomeOK {
		return wire.Welcome{Status: wire.StatusOK}, nil
	}
	err = json.Unmarshal(text, &w)
	return w, err
}

// decodeHello is json.Unmarshal, which is dear for one line of a login: most are read here, and
// it gets what has anything unusual in it.
func decodeHello(text []byte) (*opening, error) {
	var h opening
	if plainHello(text, &h) {
		return &h, nil
	}
	h = opening{}
	if err := json.Unmarshal(text, &h); err != nil {
		return nil, err
	}
	return &h, nil
}

// plainHello takes an object of strings without escapes, of numbers and of true, without
// blanks, each member at most once and known.
func plainHello(text []byte, h *opening) bool {
	rest, ok := bytes.CutPrefix(text, []byte{'{'})
	for seen := 0; ok; {
		var name, value []byte
		if name, rest, ok = plainString(rest); !ok || len(rest) < 2 || rest[0] != ':' {
			return false
		}
		bit := 0
		switch rest[1] {
		case '"':
			if value, rest, ok = plainString(rest[1:]); ok {
				bit = setText(&h.Hello, string(name), string(value))
			}
		case 't':
			if rest, ok = bytes.CutPrefix(rest[1:], []byte("true")); ok && string(name) == "points" {
				h.Points, bit = true, 1<<10
			}
		default:
			if value, rest, ok = plainNumber(rest[1:]); ok {
				bit = setNumber(&h.Hello, string(name), string(value))
			}
		}
		if bit == 0 || seen&bit != 0 || len(rest) == 0 {
			return false
		}
		if seen |= bit; rest[0] == '}' {
			return len(rest) == 1
		}
		rest, ok = bytes.CutPrefix(rest, []byte{','})
	}
	return false
}

// setNumber sets a member of a Hello, and gives its bit; 0: it is none.
func setNumber(h *wire.Hello, name, value string) int {
	n, err := strconv.ParseUint(value, 10, 63)
	switch {
	case err != nil:
		return 0
	case name == "v":
		h.Version = int(n)
		return 1
	case name == "epoch":
		h.Epoch = n
		return 2
	}
	return 0
}

// setText is setNumber for strings; POP3 is none.
func setText(h *wire.Hello, name, value string) int {
	for i, m := range [...]struct {
		name string
		at   *string
	}{{"protocol", &h.Protocol}, {"user", &h.User}, {"home", &h.Home}, {"client", &h.Client}, {"session", &h.Session}} {
		if m.name == name {
			*m.at = value
			return 4 << i
		}
	}
	return 0
}

func plainString(b []byte) (value, rest []byte, ok bool) {
	if len(b) == 0 || b[0] != '"' {
		return nil, nil, false
	}
	for i, c := range b[1:] {
		switch {
		case c == '"':
			return b[1 : 1+i], b[2+i:], true
		case c == '\\' || c < ' ' || c >= 0x7f:
			return nil, nil, false
		}
	}
	return nil, nil, false
}

func plainNumber(b []byte) (value, rest []byte, ok bool) {
	n := 0
	for n < len(b) && '0' <= b[n] && b[n] <= '9' {
		n++
	}
	// JSON has no number with a zero before it.
	return b[:n], b[n:], n > 0 && (n == 1 || b[0] != '0')
}
