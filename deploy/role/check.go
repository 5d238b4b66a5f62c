package role

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"

	"waypost/director/member"
)

// Check says everything that can be known to be wrong without starting: the
// settings, and that each file they name is there, can be read, and is what it
// should be. One line for each fault.
func Check(c Config) error {
	role, err := c.Role()
	if err != nil {
		return err
	}
	errs := []error{c.Validate(role)}
	add := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	id, err := c.identity(role)
	add(err)
	add(private("node.key", c.Node.Key))
	if id != nil {
		add(id.Health())
		_, err := c.etcdTLS(id)
		add(err)
	}
	_, err = member.LoadKey(c.Gossip.KeyFile)
	add(err)
	if f := c.Directory.PasswordFile; f != "" {
		add(private("directory.password_file", f))
	}
	add(c.checkCertificates())
	return errors.Join(errs...)
}

// checkCertificates looks at what clients are shown.
func (c Config) checkCertificates() error {
	pair := func(what, cert, key string) error {
		if cert == "" && key == "" {
			return nil
		}
		if _, err := tls.LoadX509KeyPair(cert, key); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return private(what, key)
	}
	switch {
	case c.MX != nil:
		return pair("mx.tls_cert, mx.tls_key", c.MX.TLSCert, c.MX.TLSKey)
	case c.Proxy != nil:
		return pair("proxy.cert_file, proxy.key_file", c.Proxy.CertFile, c.Proxy.KeyFile)
	}
	return nil
}

// private refuses a secret that others can read.
func private(what, path string) error {
	st, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if st.Mode().Perm()&0o007 != 0 {
		return fmt.Errorf("%s: everybody can read %s: chmod 640 it, or less", what, path)
	}
	return nil
}
