package prelogin

import (
	"encoding/base64"

	"waypost/internal/auth"
)

// Mechanisms are the SASL mechanisms offered, in the order of preference.
const Mechanisms = "PLAIN LOGIN"

// SASL runs one exchange over lines (RFC 9051, Section 6.2.2; RFC 5034,
// Section 4) and returns what the client presented. initial is the initial
// response as it stood on the command line, empty where there was none. Errors
// are those of package auth, ErrLineTooLong, or the connection's.
func (c *Conn) SASL(mechanism, initial string) (Credentials, error) {
	var cred Credentials
	m, err := auth.NewMechanism(mechanism, func(authzid, authcid, password string) error {
		cred = Credentials{Authzid: authzid, Name: authcid, Password: password}
		return nil
	})
	if err != nil {
		return cred, err
	}
	var response []byte
	if initial != "" {
		if response, err = auth.DecodeInitial(initial); err != nil {
			return cred, err
		}
	}
	for {
		challenge, done, err := m.Next(response)
		if err != nil || done {
			return cred, err
		}
		if err := c.Write("+ " + base64.StdEncoding.EncodeToString(challenge) + "\r\n"); err != nil {
			return cred, err
		}
		line, err := c.ReadLine(auth.MaxResponseBytes + 2)
		if err != nil {
			return cred, err
		}
		if response, err = auth.DecodeResponse(string(line)); err != nil {
			return cred, err
		}
	}
}
