package clustertest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"waypost/deploy/up"
	"waypost/director"
	"waypost/director/admin"
	"waypost/director/etcd/embedded"
	"waypost/director/restore"
	"waypost/internal/cluster"
)

// snapshotRun is a cluster on Debian's etcd, with access control, whose directory
// goes back to a snapshot of etcd's own.
type snapshotRun struct {
	*testCluster
	t *testing.T
	// folder is the etcd server's, as `waypost init` makes it, and save the snapshot.
	folder, save string
	aside        string // a node's copy of the directory
	backups      string
	port         int
	users        []director.User
	mid, held    director.User // in a move at the snapshot, and in one at the end
	gone, late   director.User // deleted, and made, after it
	back         director.User // deleted after it, too, and to come back from a backup
}

// TestEtcdSnapshot: etcd's own snapshot is put back under users at work, by the
// commands that the documentation has, after users have moved, come and gone.
func TestEtcdSnapshot(t *testing.T) {
	beside(t)
	need(t, "etcd", "etcdctl")
	r := newSnapshotRun(t)
	r.users = r.withUsers(7)
	r.mid, r.held = r.users[5], r.users[6]
	r.gone = r.user(t, "gone@example.test", "b1")
	r.mailTo(r.gone, "to the one who goes")
	r.back = r.user(t, "back@example.test", "b2")
	r.mailTo(r.back, "to be backed up")
	r.backups = filepath.Join(t.TempDir(), "backups")
	waypost(t, r.dir, "", "backup", string(r.back), "--to", r.backups, "--data", r.dir)
	l := startLoad(r.testCluster, t, r.users)
	l.flow(20)
	r.takeSnapshot()
	l.flow(10)
	r.afterSnapshot()
	homes := r.homes()

	r.lose()
	// Put aside, since what is written anew knows only what etcd does.
	r.aside = put(t, t.TempDir(), "directory.snapshot", contents(t, filepath.Join(r.dir, "snapshots", "d1")), 0o600)
	l.flow(10) // known users do not need it
	r.putBack()
	r.mailTo(r.late, "while it is closed")
	report := r.restore("--directory-snapshot", r.aside)
	if report.Decided != len(homes) || report.Closed != 0 || report.Deleted != 2 || len(report.NoAccount) != 0 {
		t.Errorf("restored with a node's copy: %+v", report)
	}
	r.serves(homes)
	r.mailTo("info@example.test", "by an address that the snapshot has not")
	r.reads(r.late, "to the late one", "while it is closed", "by an address that the snapshot has not")
	l.flow(20)

	// Without a copy nobody knows who was deleted, and what came new.
	r.lose()
	r.putBack()
	report = r.restore()
	if report.Decided != len(homes) || report.Closed != 2 || report.Deleted != 0 || !slices.Equal(report.NoAccount, []director.User{r.late}) ||
		len(report.Notes) != 2 || report.Notes[0].User != r.back || report.Notes[1].User != r.gone {
		t.Errorf("restored without a copy: %+v", report)
	}
	known := maps.Clone(homes)
	delete(known, r.late)
	r.serves(known)
	r.strays()
	r.stop("r1", "d1")
	report = r.restore("--directory-snapshot", r.aside)
	if report.Decided != len(homes)+2 || report.Closed+report.Deleted+len(report.NoAccount) != 0 {
		t.Errorf("restored once more, with a copy: %+v", report)
	}
	homes[r.users[4]] = known[r.users[4]]
	r.serves(homes)
	r.reads(r.late, "to the late one", "while it is closed", "by an address that the snapshot has not", "to a stray")
	r.reads(r.gone)
	l.flow(20)
	l.end()
	l.settled(2 * patience)
	l.check()
}

func newSnapshotRun(t *testing.T) *snapshotRun {
	t.Helper()
	r := &snapshotRun{t: t, save: filepath.Join(t.TempDir(), "etcd.snapshot")}
	r.testCluster = newClusterWith(t, func(c *testCluster, _ []up.Unit, o *embedded.EmbedOptions) {
		dir := filepath.Join(t.TempDir(), "made")
		waypost(t, c.dir, "", "init", "--dir", dir, "--cluster", "snap", "--backends", "3", "--mx", "2", "--proxies", "2", "--etcd", "https://"+o.ClientAddr)
		r.folder = filepath.Join(dir, "nodes", "etcd-etcd1")
		// The cluster has certificates of its own, and its operator another name.
		etcd, cli, ours := cluster.Peer{Role: cluster.RoleEtcd, ID: "etcd1"}, cluster.Peer{Role: cluster.RoleAdmin, ID: "cli"}, cluster.Peer{Role: cluster.RoleAdmin, ID: "operator"}
		pki, operator := filepath.Dir(o.CAFile), filepath.Join(dir, "admin")
		for from, to := range map[string]string{
			o.CertFile: cluster.CertPath(r.folder, etcd), o.KeyFile: cluster.KeyPath(r.folder, etcd),
			cluster.CertPath(pki, ours): cluster.CertPath(operator, cli), cluster.KeyPath(pki, ours): cluster.KeyPath(operator, cli),
		} {
			put(t, filepath.Dir(to), filepath.Base(to), contents(t, from), 0o600)
		}
		for _, to := range []string{r.folder, operator} {
			put(t, to, cluster.AuthorityCert, contents(t, o.CAFile), 0o600)
		}
		put(t, r.folder, "auth.sh", strings.ReplaceAll(contents(t, filepath.Join(r.folder, "auth.sh")), cli.String(), ours.String()), 0o600)
		c.etcdFiles = []string{filepath.Join(r.folder, "etcd-etcd1.yml")}
	})
	r.port = 12379 + r.offset
	must(t, r.folder, "sh", "auth.sh")
	return r
}

func contents(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// documented runs the commands of the documentation that are between two lines, as
// they are but for what is of the machine that they were written for.
func (r *snapshotRun) documented(first, last string) {
	t := r.t
	t.Helper()
	_, text, ok := strings.Cut(contents(t, filepath.Join("..", "..", "docs", "operating.md")), "\n    "+first)
	text, _, ok2 := strings.Cut(text, last+"\n")
	if !ok || !ok2 {
		t.Fatalf("the documentation has no commands from %q to %q", first, last)
	}
	var script []string
	for line := range strings.Lines(first + text + last + "\n") {
		script = append(script, strings.TrimPrefix(line, "    "))
	}
	port := strconv.Itoa(r.port)
	run := strings.NewReplacer("/etc/waypost/admin", filepath.Join(r.folder, "..", "..", "admin"), "cd /etc/waypost", "cd "+r.folder,
		"etcd1.example.net:2379", "127.0.0.1:"+port, "etcd1.example.net:2380", "127.0.0.1:"+strconv.Itoa(r.port+1),
		"127.0.0.1:2381", "127.0.0.1:"+strconv.Itoa(r.port+2), "/backup/etcd.snapshot", r.save).Replace(strings.Join(script, ""))
	t.Logf("%s\n%s", run, must(t, r.folder, "sh", "-euc", run))
}

func (r *snapshotRun) mailTo(u director.User, subject string) {
	r.t.Helper()
	eventually(r.t, "mail for "+string(u), patience, func() error {
		return send(r.addr(2526), "load@example.org", []string{string(u)}, messageFor(subject))
	})
}

// beginMove begins one, and has the mover stand still at point.
func (r *snapshotRun) beginMove(u director.User, point string) {
	t := r.t
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := r.admin.CreateMove(ctx, string(u), r.elsewhere(t, u)); err != nil {
		t.Fatal(err)
	}
	for {
		select {
		case at := <-r.procs["r1"].at:
			if at == point+" "+string(u) {
				return
			}
			r.procs["r1"].goOn()
		case <-ctx.Done():
			t.Fatalf("the move of %s does not come to %s", u, point)
		}
	}
}

// takeSnapshot has a user in the middle of a move; it ends well afterwards.
func (r *snapshotRun) takeSnapshot() {
	t := r.t
	t.Helper()
	r.beginMove(r.mid, "frozen")
	r.documented("export ETCDCTL_CACERT", "snapshot save /backup/etcd.snapshot")
	r.procs["r1"].goOn()
	for at := range r.procs["r1"].at {
		r.procs["r1"].goOn()
		if at == "done "+string(r.mid) {
			return
		}
	}
}

// afterSnapshot is what the snapshot knows nothing of.
func (r *snapshotRun) afterSnapshot() {
	t := r.t
	t.Helper()
	for i, u := range r.users[:4] { // the fifth stays
		for range 1 + i%3 { // some come back
			if m := r.move(t, u, r.elsewhere(t, u)); m.Phase != director.PhaseDone {
				t.Fatalf("move of %s: %+v", u, m)
			}
		}
	}
	for _, u := range []director.User{r.gone, r.back} {
		if _, err := r.admin.DeleteUser(context.Background(), u); err != nil {
			t.Fatal(err)
		}
	}
	r.late = r.user(t, "late@example.test", "b2")
	r.mailTo(r.late, "to the late one")
	waypost(t, r.dir, "", "address", "add", "info@example.test", string(r.late), "--data", r.dir)
	r.beginMove(r.held, "sealed")
}

func (r *snapshotRun) homes() map[director.User]director.BackendID {
	r.t.Helper()
	all := map[director.User]director.BackendID{}
	for _, u := range append(slices.Clone(r.users), r.late) {
		got, err := r.admin.User(context.Background(), u)
		if err != nil {
			r.t.Fatal(err)
		}
		all[u] = got.Home
	}
	return all
}

// lose kills etcd and, as the documentation says, stops mover and director.
func (r *snapshotRun) lose() {
	r.t.Helper()
	r.procs["e1"].kill()
	r.procs["r1"].kill() // in the middle of a move
	r.stop("d1")
}

// stop ends processes in order.
func (r *snapshotRun) stop(names ...string) {
	for _, n := range names {
		r.procs[n].signal(syscall.SIGTERM)
		r.procs[n].waitEnd(patience)
	}
}

// putBack is the documented way to restored data that nobody but the operator has
// changed: the era is away before etcd is where everybody looks for it.
func (r *snapshotRun) putBack() {
	t := r.t
	t.Helper()
	r.documented("cd /etc/waypost", "wait $etcd || true")
	r.procs["e1"].start(t)
}

// restore runs the command dry and then in earnest. Where some users are left closed
// its exit code is 1.
func (r *snapshotRun) restore(from ...string) restore.Report {
	t := r.t
	t.Helper()
	args := append([]string{"director", "restore", "--json", "--config", filepath.Join(r.dir, "d1.conf")}, from...)
	report := func(args ...string) (out restore.Report) {
		t.Helper()
		said, err := command(r.dir, args...).Output()
		if jerr := json.Unmarshal(said, &out); jerr != nil {
			t.Fatalf("%v, %v in %s", err, jerr, said)
		}
		if failed := err != nil; failed != (out.Closed > 0) {
			t.Errorf("%d are closed, and the command ended with %v", out.Closed, err)
		}
		return out
	}
	dry := report(append(slices.Clone(args), "--dry-run")...)
	did := report(args...)
	if dry.Decided != did.Decided || dry.Closed != did.Closed || dry.Deleted != did.Deleted {
		t.Errorf("said before: %+v; did: %+v", dry, did)
	}
	return did
}

// serves starts director and mover again, and has all users at their homes.
func (r *snapshotRun) serves(homes map[director.User]director.BackendID) {
	t := r.t
	t.Helper()
	for _, n := range []string{"d1", "r1"} {
		r.procs[n].start(t)
		r.procs[n].waitReady(t)
	}
	r.admin = r.adminClient()
	for u, home := range homes {
		var got admin.User
		eventually(t, "home of "+string(u), patience, func() (err error) {
			got, err = r.admin.User(context.Background(), u)
			return err
		})
		if got.Home != home || got.State != director.Active {
			t.Errorf("%s: %+v, the home was %s", u, got, home)
		}
	}
	u := r.users[4]
	if m := r.move(t, u, r.elsewhere(t, u)); m.Phase != director.PhaseDone {
		t.Errorf("a move after the restore: %+v", m)
	}
	homes[u] = r.home(u)
}

func (r *snapshotRun) home(u director.User) director.BackendID {
	r.t.Helper()
	got, err := r.admin.User(context.Background(), u)
	if err != nil {
		r.t.Fatal(err)
	}
	return got.Home
}

// reads waits until a user has exactly the messages with these subjects.
func (r *snapshotRun) reads(u director.User, subjects ...string) {
	t := r.t
	t.Helper()
	slices.Sort(subjects)
	eventually(t, "mail of "+string(u), patience, func() error {
		s, err := readIMAP(r.addr(1143), u, "INBOX", true)
		if err != nil {
			return err
		}
		var have []string
		for _, m := range s.msgs {
			have = append(have, subjectOf(m.body))
		}
		if slices.Sort(have); !slices.Equal(have, subjects) {
			return fmt.Errorf("%q, want %q", have, subjects)
		}
		return nil
	})
}

// strays are those whom the snapshot knows, and no backend, and the other way round.
// Their mail waits until the operator has said what they are.
func (r *snapshotRun) strays() {
	t := r.t
	t.Helper()
	for _, u := range []director.User{r.gone, r.back, r.late} {
		if err := send(r.addr(2525), "load@example.org", []string{string(u)}, messageFor("to a stray")); err != nil {
			t.Errorf("mail to %s: %v", u, err)
		}
	}
	waypost(t, r.dir, "", "restore", string(r.back), "--from", r.backups, "--data", r.dir)
	r.reads(r.back, "to be backed up", "to a stray")
	waypost(t, r.dir, "", "user", "delete", string(r.gone), "--yes", "--data", r.dir)
	if _, err := r.admin.User(context.Background(), r.gone); !errors.Is(err, director.ErrNotFound) {
		t.Errorf("the user who was deleted again: %v", err)
	}
	r.user(t, string(r.gone), "b3")
	r.reads(r.gone)
}
