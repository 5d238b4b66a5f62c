package backup

import (
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"syscall"

	"waypost/backend/manifest"
)

func digestOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return manifest.HexDigest(h), nil
}

func sameFile(a, b string) (bool, error) {
	x, err := os.Lstat(a)
	if err != nil {
		return false, err
	}
	y, err := os.Lstat(b)
	if err != nil {
		return false, err
	}
	return os.SameFile(x, y), nil
}

// isUnlinkable: this file cannot be linked, or no file can here.
func isUnlinkable(err error) bool {
	return errors.Is(err, syscall.EMLINK) || errors.Is(err, syscall.ENOTSUP) || errors.Is(err, syscall.ENOSYS)
}
