package member

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"waypost/internal/durable"
)

// KeyBytes is the length of the gossip key: AES-256.
const KeyBytes = 32

// LoadOrCreateKey reads the cluster's gossip key, one line of base64, from
// path, or makes a new one there, of mode 0600, in a folder that is created if
// need be. All nodes need the same: make it once, and copy it.
func LoadOrCreateKey(path string) ([]byte, error) {
	key, err := LoadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	key = make([]byte, KeyBytes)
	rand.Read(key) // never fails; see its documentation
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("gossip key: %w", err)
	}
	err = durable.CreateFile(path, []byte(base64.StdEncoding.EncodeToString(key)+"\n"), 0o600)
	if errors.Is(err, fs.ErrExist) {
		return LoadKey(path) // somebody else was faster
	}
	if err != nil {
		return nil, fmt.Errorf("gossip key: %w", err)
	}
	return key, nil
}

// LoadKey reads what LoadOrCreateKey wrote. The error is fs.ErrNotExist without
// a file; a file that everybody may read is refused.
func LoadKey(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("gossip key: %w", err)
	}
	if info.Mode().Perm()&0o007 != 0 {
		return nil, fmt.Errorf("gossip key %s: mode %v lets everybody at it: chmod 600", path, info.Mode().Perm())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("gossip key: %w", err)
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) != KeyBytes {
		return nil, fmt.Errorf("gossip key %s: want one line of base64 with %d bytes: copy the file from another node", path, KeyBytes)
	}
	return key, nil
}
