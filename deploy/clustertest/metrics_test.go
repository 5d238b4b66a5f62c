package clustertest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/smtp"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"waypost/director"
	"waypost/internal/cluster"
	"waypost/internal/wire"
)

// metricsOrder are the roles by their metrics ports, 17200 and on.
var metricsOrder = []string{"d1", "b1", "b2", "b3", "mx1", "mx2", "p1", "p2", "r1"}

// pagedOn is what an operator pages on, by role: it must be there from the
// start, for a series that begins with the trouble is seen too late.
var pagedOn = map[string][]string{
	"d": {"waypost_director_moves_in_flight", "waypost_director_backend_alive"},
	"b": {"waypost_backend_alarms_total", "waypost_backend_busy_taken_back_total", "waypost_backend_free_bytes", `waypost_backend_fence_refusals_total{reason="stale"}`},
	"mx": {"waypost_mx_spool_oldest_age_seconds", "waypost_mx_spool_entries", "waypost_mx_spool_held", "waypost_mx_spool_dead", "waypost_mx_dead_letters_total", "waypost_mx_stale_twice_total",
		`waypost_mx_recipients_refused_total{reason="unknown"}`, `waypost_mx_recipients_deferred_total{reason="away"}`},
	"p": {"waypost_proxy_connections", "waypost_proxy_logins_held", `waypost_proxy_logins_total{protocol="imap",result="failed"}`, `waypost_proxy_logins_total{protocol="pop3",result="unavailable"}`},
	"r": {"waypost_rebalance_moves_in_flight"},
}

// pagedOnce is what appears with the first event of its kind.
var pagedOnce = map[string][]string{
	"mx": {`waypost_mx_logins_total{result="ok"}`, `waypost_mx_login_decisions_total`},
	"p":  {"waypost_proxy_backend_errors_total", "waypost_proxy_login_decisions_total"},
	"r":  {`waypost_rebalance_moves_total{result="done"}`, "waypost_rebalance_busy_seconds"},
}

// counted is what the events of everything must have counted, by role.
var counted = map[string][]string{
	"b":  {`waypost_backend_fence_refusals_total{reason="stale"}`},
	"mx": {`waypost_mx_recipients_refused_total{reason="unknown"}`, `waypost_mx_recipients_deferred_total{reason="away"}`},
	"p":  {`waypost_proxy_logins_total{protocol="imap",result="failed"}`, `waypost_proxy_logins_total{protocol="pop3",result="failed"}`},
}

// onAll is what every role has.
var onAll = []string{"waypost_directory_lag_seconds", "waypost_directory_stale", "waypost_directory_watch_restarts_total"}

// scraped is the answer of one /metrics.
type scraped struct {
	text  string
	types map[string]string // by family
	help  map[string]string
}

// has tells whether there is a series of that name, labels included where given.
func (s scraped) has(series string) bool {
	for line := range strings.Lines(s.text) {
		rest, ok := strings.CutPrefix(line, series)
		if ok && (strings.HasPrefix(rest, " ") || strings.HasPrefix(rest, "{") || strings.HasPrefix(rest, "_count")) {
			return true
		}
	}
	return false
}

func get(t *testing.T, url string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("%s: %s, %v: %.300s", url, resp.Status, err, b)
	}
	return string(b)
}

// scrape reads the metrics of all roles, by id.
func (c *testCluster) scrape(t *testing.T) map[string]scraped {
	t.Helper()
	out := make(map[string]scraped)
	for i, id := range metricsOrder {
		s := scraped{get(t, "http://"+c.addr(17200+i)+"/metrics"), make(map[string]string), make(map[string]string)}
		for line := range strings.Lines(s.text) {
			f := strings.SplitN(strings.TrimSpace(line), " ", 4)
			switch {
			case len(f) == 4 && f[1] == "TYPE":
				s.types[f[2]] = f[3]
			case len(f) == 4 && f[1] == "HELP":
				s.help[f[2]] = f[3]
			}
		}
		out[id] = s
	}
	return out
}

func (c *testCluster) missing(t *testing.T, when string, want map[string][]string) {
	t.Helper()
	all := c.scrape(t)
	for id, s := range all {
		for _, series := range append(want[strings.TrimRight(id, "0123456789")], onAll...) {
			if !s.has(series) {
				t.Errorf("%s, %s has no %s", when, id, series)
			}
		}
	}
}

// TestMetrics: every role answers monitoring, has what an operator pages on,
// and exposes nothing that docs/metrics.md does not explain.
func TestMetrics(t *testing.T) {
	beside(t)
	c := newCluster(t)
	for i, id := range metricsOrder {
		for _, path := range []string{"/healthz", "/readyz"} {
			if got := get(t, "http://"+c.addr(17200+i)+path); got != "ok\n" {
				t.Errorf("%s of %s: %q", path, id, got)
			}
		}
	}
	c.missing(t, "at the start", pagedOn)
	c.everything(t)
	c.missingAnywhere(t)
	c.documented(t)
	c.withoutEtcd(t)
}

// everything has each kind of event happen once.
func (c *testCluster) everything(t *testing.T) {
	t.Helper()
	c.withUsers(0)
	u := c.user(t, "metrics@example.test", "b1")
	for _, port := range []int{2525, 2526} {
		if err := send(c.addr(port), "a@example.org", []string{string(u)}, messageFor("metrics")); err != nil {
			t.Fatal(err)
		}
		if err := send(c.addr(port), "a@example.org", []string{"nobody@example.test"}, messageFor("metrics")); !permanent(err) {
			t.Errorf("mail to nobody: %v", err)
		}
	}
	for i := range 2 {
		if _, err := readIMAP(c.addr(1143+i), u, "INBOX", true); err != nil {
			t.Error(err)
		}
		if _, _, err := readPOP3(c.addr(1110+i), u); err != nil {
			t.Error(err)
		}
		if _, err := readIMAP(c.addr(1143+i), "nobody@example.test", "INBOX", true); err == nil {
			t.Error("nobody logs in by IMAP")
		}
		if _, _, err := readPOP3(c.addr(1110+i), "nobody@example.test"); err == nil {
			t.Error("nobody logs in by POP3")
		}
	}
	c.submit(t, u)
	if m := c.move(t, u, "b2"); m.Phase != director.PhaseDone {
		t.Errorf("move: %+v", m)
	}
	c.staleSession(t, u)
	c.whileDead(t, u, "b2")
}

// submit logs in to submission, rightly and wrongly.
func (c *testCluster) submit(t *testing.T, u director.User) {
	t.Helper()
	for _, pw := range []string{password, "wrong"} {
		conn, err := net.DialTimeout("tcp", c.addr(1587), patience)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		s, err := smtp.NewClient(conn, "localhost")
		if err != nil {
			t.Fatal(err)
		}
		id, err := cluster.LoadIdentity(filepath.Join(c.dir, "pki", cluster.AuthorityCert), c.pki("proxy", "p1", ".crt"), c.pki("proxy", "p1", ".key"))
		if err != nil {
			t.Fatal(err)
		}
		trust := id.TLSForEtcd() // any configuration: the test of trust is elsewhere
		trust.InsecureSkipVerify, trust.Certificates, trust.GetClientCertificate = true, nil, nil
		if err := s.StartTLS(trust); err != nil {
			t.Fatal(err)
		}
		if err := s.Auth(smtp.PlainAuth("", string(u), pw, "localhost")); (err == nil) != (pw == password) {
			t.Errorf("submission login with %q: %v", pw, err)
		}
		s.Close()
	}
}

func (c *testCluster) pki(role, id, ending string) string {
	return filepath.Join(c.dir, "pki", role+"-"+id+ending)
}

// staleSession asks the former home for a session, as a proxy that lags does.
func (c *testCluster) staleSession(t *testing.T, u director.User) {
	t.Helper()
	id, err := cluster.LoadIdentity(filepath.Join(c.dir, "pki", cluster.AuthorityCert), c.pki("proxy", "p1", ".crt"), c.pki("proxy", "p1", ".key"))
	if err != nil {
		t.Fatal(err)
	}
	for i, b := range []string{"b1", "b2", "b3"} {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		conn, err := id.Dial(ctx, c.addr(17001+i), cluster.Peer{Role: cluster.RoleBackend, ID: b}, cluster.ProtoSession)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(patience))
		h := wire.Hello{Version: wire.Version, Protocol: "imap", User: string(u), Home: b, Epoch: 1, Client: "192.0.2.1:1", Session: "metrics"}
		var w wire.Welcome
		if err := errors.Join(wire.Write(conn, h), wire.Read(bufio.NewReader(conn), &w)); err != nil || w.Status == wire.StatusOK {
			t.Errorf("a session at epoch 1 on %s: %+v, %v", b, w, err)
		}
		conn.Close()
	}
}

// whileDead sends mail to a user whose home is dead, looks at the spool's age,
// and lets it come back.
func (c *testCluster) whileDead(t *testing.T, u director.User, home string) {
	t.Helper()
	c.procs[home].kill()
	for i, port := range []int{2525, 2526} {
		if err := send(c.addr(port), "a@example.org", []string{string(u)}, messageFor("while dead")); err != nil {
			t.Fatal(err)
		}
		if _, err := readIMAP(c.addr(1143+i), u, "INBOX", false); err == nil {
			t.Error("a login at a dead home")
		}
	}
	age := regexp.MustCompile(`(?m)^waypost_mx_spool_oldest_age_seconds (\S+)$`)
	for _, id := range []string{"mx1", "mx2"} {
		m := age.FindStringSubmatch(c.scrape1(t, id))
		if m == nil || m[1] == "0" || strings.HasPrefix(m[1], "-") {
			t.Errorf("the spool's age at %s while mail waits: %v", id, m)
		}
	}
	c.procs[home].start(t)
	c.procs[home].waitReady(t)
	eventually(t, "the spools are empty", patience, func() error {
		for _, id := range []string{"mx1", "mx2"} {
			if !strings.Contains(c.scrape1(t, id), "\nwaypost_mx_spool_oldest_age_seconds 0\n") {
				return fmt.Errorf("%s has mail", id)
			}
		}
		return nil
	})
}

func (c *testCluster) scrape1(t *testing.T, id string) string {
	t.Helper()
	return get(t, "http://"+c.addr(17200+slices.Index(metricsOrder, id))+"/metrics")
}

// missingAnywhere wants each series on at least one node of the role, and those
// of counted with a value.
func (c *testCluster) missingAnywhere(t *testing.T) {
	t.Helper()
	all := c.scrape(t)
	anywhere := func(kind string, has func(scraped) bool) bool {
		for id, s := range all {
			if strings.TrimRight(id, "0123456789") == kind && has(s) {
				return true
			}
		}
		return false
	}
	for kind, list := range pagedOnce {
		for _, series := range list {
			if !anywhere(kind, func(s scraped) bool { return s.has(series) }) {
				t.Errorf("after it happened no %s has %s", kind, series)
			}
		}
	}
	for kind, list := range counted {
		for _, series := range list {
			if !anywhere(kind, func(s scraped) bool { return s.has(series) && !strings.Contains(s.text, "\n"+series+" 0\n") }) {
				t.Errorf("after it happened no %s has counted %s", kind, series)
			}
		}
	}
}

// documented compares what is exposed with the table in docs/metrics.md.
func (c *testCluster) documented(t *testing.T) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "docs", "metrics.md"))
	if err != nil {
		t.Fatal(err)
	}
	told := make(map[string]string)
	for _, m := range regexp.MustCompile("(?m)^\\| `(waypost_[a-z0-9_]+)`[^|]*\\| ([a-z]+) \\|").FindAllStringSubmatch(string(b), -1) {
		told[m[1]] = m[2]
	}
	seen := make(map[string]bool)
	for id, s := range c.scrape(t) {
		for name, kind := range s.types {
			if !strings.HasPrefix(name, "waypost_") {
				continue
			}
			seen[name] = true
			if told[name] != kind {
				t.Errorf("%s of %s is a %s; docs/metrics.md says %q", name, id, kind, told[name])
			}
			if s.help[name] == "" {
				t.Errorf("%s of %s has no help", name, id)
			}
		}
	}
	for name := range told {
		if !seen[name] && !slices.Contains(rare, name) {
			t.Errorf("docs/metrics.md explains %s, which nobody exposes", name)
		}
	}
}

// rare are metrics whose first event a healthy cluster does not bring about.
var rare = []string{"waypost_proxy_connections_refused_total", "waypost_proxy_backend_refusals_total", "waypost_proxy_refused_twice_total"}

// withoutEtcd: roles that have read the directory go on, and say how old it is;
// one that starts and has to wait for it is not ready, but alive.
func (c *testCluster) withoutEtcd(t *testing.T) {
	t.Helper()
	c.procs["e1"].kill()
	for i, id := range metricsOrder {
		eventually(t, id+" says that its directory is stale", patience, func() error {
			text := get(t, "http://"+c.addr(17200+i)+"/metrics")
			if !strings.Contains(text, "\nwaypost_directory_stale 1\n") || strings.Contains(text, "\nwaypost_directory_lag_seconds 0\n") {
				return errors.New("it does not")
			}
			return nil
		})
		for _, path := range []string{"/healthz", "/readyz"} {
			if got := get(t, "http://"+c.addr(17200+i)+path); got != "ok\n" {
				t.Errorf("%s of %s without etcd: %q", path, id, got)
			}
		}
	}
	log, err := os.Stat(c.procs["b3"].logPath)
	if err != nil {
		t.Fatal(err)
	}
	c.restart("b3")
	at := "http://" + c.addr(17200+slices.Index(metricsOrder, "b3"))
	eventually(t, "b3 waits", patience, func() error {
		b, err := os.ReadFile(c.procs["b3"].logPath)
		if err == nil && !strings.Contains(string(b[log.Size():]), "waiting for the directory") {
			err = errors.New("it does not say so")
		}
		return err
	})
	if got := get(t, at+"/healthz"); got != "ok\n" {
		t.Errorf("/healthz of b3 while it waits for etcd: %q", got)
	}
	resp, err := http.Get(at + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("/readyz of a backend that waits for etcd and serves nobody: %s", resp.Status)
	}
	c.procs["e1"].start(t)
	c.procs["e1"].waitReady(t)
	c.procs["b3"].waitReady(t)
	if got := get(t, at+"/readyz"); got != "ok\n" {
		t.Errorf("/readyz of b3: %q", got)
	}
}
