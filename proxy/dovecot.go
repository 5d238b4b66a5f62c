package proxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"waypost/director"
	"waypost/proxy/prelogin"
)

// openDovecot logs in on a backend of kind dovecot, as a client of IMAP or
// POP3: with the user's own password, or as the user with a master's. There is
// no fence there, and no epoch is sent (design, Fencing).
func (s *Server) openDovecot(ctx context.Context, home director.BackendID, d director.Dovecot, q request) (*upstream, error) {
	addr := d.IMAP
	switch q.protocol {
	case protoPOP3:
		addr = d.POP3
	case protoManageSieve:
		return nil, fmt.Errorf("%w: backend %s keeps its scripts itself", prelogin.ErrDisabled, home)
	}
	if addr == "" {
		return nil, fmt.Errorf("backend %s has no address for %s", home, q.protocol)
	}
	l, err := newForeignLogin(d, q)
	if err != nil {
		return nil, fmt.Errorf("backend %s: %w", home, err)
	}
	if l.tls, err = foreignTLS(d, addr); err != nil {
		return nil, fmt.Errorf("backend %s: %w", home, err)
	}
	conn, err := s.dialBackend(ctx, func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	})
	if err != nil {
		return nil, fmt.Errorf("backend %s: %w", home, err)
	}
	return s.converse(ctx, conn, home, func(t *talk) (string, error) {
		if d.TLS == "tls" {
			if err := t.startTLS(ctx, l.tls); err != nil {
				return "", err
			}
		}
		if q.protocol == protoPOP3 {
			return "", t.dovecotPOP3(ctx, l)
		}
		return t.dovecotIMAP(ctx, l)
	})
}

// foreignLogin is what a Dovecot is told.
type foreignLogin struct {
	q        request
	trusted  bool
	starttls bool
	tls      *tls.Config
	plain    string // SASL PLAIN's message in base64
}

// newForeignLogin makes SASL PLAIN's message (RFC 4616): the user with its own
// password, or the master with the user as authorization identity.
func newForeignLogin(d director.Dovecot, q request) (foreignLogin, error) {
	l := foreignLogin{q: q, trusted: d.Trusted, starttls: d.TLS == "starttls"}
	authzid, authcid, password := "", string(q.user), q.password
	if d.MasterUser != "" {
		secret, err := os.ReadFile(d.MasterPasswordFile)
		if err != nil {
			return l, fmt.Errorf("master password: %w", err)
		}
		authzid, authcid, password = string(q.user), d.MasterUser, strings.TrimRight(string(secret), "\r\n")
	}
	l.plain = base64.StdEncoding.EncodeToString([]byte(authzid + "\x00" + authcid + "\x00" + password))
	return l, nil
}

// foreignTLS is nil where the connection stays in plaintext.
func foreignTLS(d director.Dovecot, addr string) (*tls.Config, error) {
	switch d.TLS {
	case "", "none":
		return nil, nil
	case "starttls", "tls":
	default:
		return nil, fmt.Errorf("dovecot's tls is %q: want none, starttls or tls", d.TLS)
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: host}
	if d.CAFile != "" {
		pem, err := os.ReadFile(d.CAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca_file %s holds no certificate", d.CAFile)
		}
	}
	return c, nil
}

func (t *talk) startTLS(ctx context.Context, config *tls.Config) error {
	if t.r.Buffered() > 0 {
		return prelogin.ErrInjection
	}
	c := tls.Client(t.conn, config)
	if err := c.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	t.conn, t.r = c, bufio.NewReaderSize(c, 1024)
	return nil
}

var errNoGreeting = errors.New("unexpected greeting")

// dovecotIMAP returns the capabilities of the logged-in session.
func (t *talk) dovecotIMAP(ctx context.Context, l foreignLogin) (string, error) {
	greeting, err := t.line()
	if err != nil {
		return "", err
	}
	if !hasPrefixFold(greeting, "* OK") {
		return "", fmt.Errorf("%w %.80q", errNoGreeting, greeting)
	}
	caps := capabilityCode(greeting)
	if l.starttls {
		if _, _, err := t.imapCommand("S", "STARTTLS", "", true); err != nil {
			return "", err
		}
		if err := t.startTLS(ctx, l.tls); err != nil {
			return "", err
		}
		caps = "" // what was said in plaintext counts no more (RFC 9051, Section 6.2.1)
	}
	if caps == "" {
		if _, caps, err = t.imapCommand("C", "CAPABILITY", "", true); err != nil {
			return "", err
		}
	}
	if l.trusted && hasWord(caps, "ID") {
		if _, _, err := t.imapCommand("I", "ID ("+l.imapID()+")", "", true); err != nil {
			return "", err
		}
	}
	command, response := "AUTHENTICATE PLAIN", l.plain
	if hasWord(caps, "SASL-IR") {
		command, response = command+" "+l.plain, ""
	}
	answer, caps, err := t.imapCommand("A", command, response, false)
	if err != nil {
		return "", err
	}
	return caps, imapVerdict(answer)
}

// imapID is how Dovecot's own proxies pass on where a client is: the server
// believes it from addresses in login_trusted_networks.
func (l foreignLogin) imapID() string {
	return fmt.Sprintf(`"x-session-id" "%s" "x-originating-ip" "%s" "x-originating-port" "%d" "x-connected-ip" "%s" "x-connected-port" "%d" "x-proxy-ttl" "4"`,
		l.q.session, l.q.client.Addr(), l.q.client.Port(), l.q.local.Addr(), l.q.local.Port())
}

// imapCommand sends a command and returns its tagged answer without the tag,
// and the capabilities told meanwhile. response answers a continuation. With
// must an answer other than OK is an error.
func (t *talk) imapCommand(tag, command, response string, must bool) (answer, capabilities string, err error) {
	if err := t.send(tag + " " + command); err != nil {
		return "", "", err
	}
	verb, _, _ := strings.Cut(command, " ")
	for range maxUntagged {
		line, err := t.line()
		if err != nil {
			return "", "", fmt.Errorf("%s: %w", verb, err)
		}
		switch {
		case strings.HasPrefix(line, tag+" "):
			answer = line[len(tag)+1:]
			if caps := capabilityCode(answer); caps != "" {
				capabilities = caps
			}
			if must && !hasPrefixFold(answer, "OK") {
				return "", "", fmt.Errorf("%s: %.80q", verb, answer)
			}
			return answer, capabilities, nil
		case hasPrefixFold(line, "* CAPABILITY "):
			capabilities = line[len("* CAPABILITY "):]
		case hasPrefixFold(line, "* BYE"):
			return "", "", fmt.Errorf("%s: %.80q", verb, line)
		case strings.HasPrefix(line, "+"):
			// Once; then there is nothing to say but "cancel".
			if response == "" {
				response = "*"
			}
			if err := t.send(response); err != nil {
				return "", "", err
			}
			response = ""
		}
	}
	return "", "", fmt.Errorf("%s: too many lines without an answer", verb)
}

// maxUntagged bounds what may come before an answer.
const maxUntagged = 100

// imapVerdict reads the answer to AUTHENTICATE (RFC 5530, Section 3). Only what
// is said to be the password's fault is; the rest is temporary.
func imapVerdict(answer string) error {
	if hasPrefixFold(answer, "OK") {
		return nil
	}
	return verdict(answer, map[string]error{
		"AUTHENTICATIONFAILED": prelogin.ErrAuth,
		"AUTHORIZATIONFAILED":  prelogin.ErrDisabled,
		"EXPIRED":              prelogin.ErrDisabled,
		"CONTACTADMIN":         prelogin.ErrDisabled,
		"LIMIT":                prelogin.ErrLimit,
		"INUSE":                prelogin.ErrInUse,
	})
}

func verdict(answer string, codes map[string]error) error {
	if _, rest, ok := strings.Cut(answer, "["); ok {
		code, _, _ := strings.Cut(rest, "]")
		if err := codes[strings.ToUpper(code)]; err != nil {
			return fmt.Errorf("%w: backend says %.80q", err, answer)
		}
	}
	return fmt.Errorf("%w: backend says %.80q", prelogin.ErrTemporary, answer)
}

// dovecotPOP3 logs in (RFC 5034). The initial response is sent only when the
// command stays within 255 octets (RFC 2449, Section 4).
func (t *talk) dovecotPOP3(ctx context.Context, l foreignLogin) error {
	greeting, err := t.line()
	if err != nil {
		return err
	}
	if !hasPrefixFold(greeting, "+OK") {
		return fmt.Errorf("%w %.80q", errNoGreeting, greeting)
	}
	if l.starttls {
		if err := t.pop3Must("STLS"); err != nil {
			return err
		}
		if err := t.startTLS(ctx, l.tls); err != nil {
			return err
		}
	}
	// Dovecot announces in its greeting that it believes the other side.
	if l.trusted && strings.Contains(greeting, "[XCLIENT]") {
		if err := t.pop3Must(fmt.Sprintf("XCLIENT ADDR=%s PORT=%d SESSION=%s TTL=4", l.q.client.Addr(), l.q.client.Port(), l.q.session)); err != nil {
			return err
		}
	}
	const initialLimit = 200
	command, response := "AUTH PLAIN", l.plain
	if len(l.plain) <= initialLimit {
		command, response = command+" "+l.plain, ""
	}
	if err := t.send(command); err != nil {
		return err
	}
	answer, err := t.line()
	if err == nil && strings.HasPrefix(answer, "+ ") && response != "" {
		if err := t.send(response); err != nil {
			return err
		}
		answer, err = t.line()
	}
	if err != nil {
		return fmt.Errorf("AUTH: %w", err)
	}
	if hasPrefixFold(answer, "+OK") {
		return nil
	}
	// RFC 2449, Section 8; RFC 3206, Section 4.
	return verdict(answer, map[string]error{
		"AUTH": prelogin.ErrAuth, "SYS/PERM": prelogin.ErrDisabled, "IN-USE": prelogin.ErrInUse, "LOGIN-DELAY": prelogin.ErrDelay,
	})
}

func (t *talk) pop3Must(command string) error {
	if err := t.send(command); err != nil {
		return err
	}
	verb, _, _ := strings.Cut(command, " ")
	answer, err := t.line()
	if err != nil {
		return fmt.Errorf("%s: %w", verb, err)
	}
	if !hasPrefixFold(answer, "+OK") {
		return fmt.Errorf("%s: %.80q", verb, answer)
	}
	return nil
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

func hasWord(list, word string) bool {
	for w := range strings.FieldsSeq(list) {
		if strings.EqualFold(w, word) {
			return true
		}
	}
	return false
}
