package control

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// TreePath is a path below a user's folder, with slashes. Names on a disk are
// bytes, and JSON is text: one that is no UTF-8 is sent as NUL and base64,
// which no name can be by itself.
type TreePath string

// MarshalJSON implements json.Marshaler.
func (p TreePath) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(string(p)) {
		return json.Marshal(string(p))
	}
	return json.Marshal("\x00" + base64.StdEncoding.EncodeToString([]byte(p)))
}

// UnmarshalJSON implements json.Unmarshaler.
func (p *TreePath) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return err
	}
	if len(s) == 0 || s[0] != 0 {
		*p = TreePath(s)
		return nil
	}
	raw, err := base64.StdEncoding.DecodeString(s[1:])
	if err != nil {
		return fmt.Errorf("path: %w", err)
	}
	*p = TreePath(raw)
	return nil
}
