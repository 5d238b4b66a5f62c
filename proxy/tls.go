package proxy

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// reloadEvery is how often the certificate's files are looked at, at most.
const reloadEvery = 30 * time.Second

// certificate is the clients' certificate, read again when its files changed.
type certificate struct {
	certFile, keyFile string
	log               *slog.Logger
	now               func() time.Time

	mu      sync.Mutex // protects what follows; held while files are read
	current *tls.Certificate
	stamp   [2]time.Time
	checked time.Time
}

func loadCertificate(certFile, keyFile string, log *slog.Logger) (*certificate, error) {
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log, now: time.Now}
	if err := c.read(); err != nil {
		return nil, err
	}
	c.checked = c.now()
	return c, nil
}

// read takes the stamps first: a file replaced meanwhile is then read again.
func (c *certificate) read() error {
	stamp, err := c.stamps()
	if err != nil {
		return fmt.Errorf("certificate for clients: %w", err)
	}
	pair, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		return fmt.Errorf("certificate for clients: %s and %s: %w", c.certFile, c.keyFile, err)
	}
	c.current, c.stamp = &pair, stamp
	return nil
}

func (c *certificate) stamps() (s [2]time.Time, err error) {
	for i, path := range []string{c.certFile, c.keyFile} {
		info, err := os.Stat(path)
		if err != nil {
			return s, err
		}
		s[i] = info.ModTime()
	}
	return s, nil
}

// get is a tls.Config's GetCertificate. Files that are no good are reported,
// and the certificate that was good is kept.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.now(); now.Sub(c.checked) >= reloadEvery {
		c.checked = now
		stamp, err := c.stamps()
		if err == nil && stamp != c.stamp {
			err = c.read()
		}
		if err != nil {
			c.log.Warn("certificate for clients not reloaded", "error", err)
		}
	}
	return c.current, nil
}

// expires is when the certificate in use ends, in seconds of Unix time.
func (c *certificate) expires() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return float64(c.current.Leaf.NotAfter.Unix())
}

// config is for one protocol. Its ALPN name (RFC 7301) keeps a connection that
// was meant for another protocol from being answered here.
func (c *certificate) config(alpn string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get, NextProtos: []string{alpn}}
}
