package clustertest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"waypost/deploy/role"
	"waypost/director"
	"waypost/director/etcd/embedded"
	"waypost/internal/cluster"
	"waypost/internal/telemetry"
)

// envChild makes the test binary a role: "etcd" or a role's name, and after a
// space the file to read.
const envChild = "WAYPOST_CHILD"

// kindDebianEtcd is the spec of Debian's etcd, with its configuration's path.
const kindDebianEtcd = "debian-etcd"

// envFree, where it is set, has a mover not ask at each point.
const envFree = "WAYPOST_CHILD_FREE"

func TestMain(m *testing.M) {
	if spec := os.Getenv(envChild); spec != "" {
		var kind, path string
		if _, err := fmt.Sscan(spec, &kind, &path); err != nil {
			panic(err)
		}
		if err := child(kind, path); err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// child runs one process of the cluster until SIGTERM. It prints "ready" when
// it serves. A mover prints "at POINT USER" before each step and waits for a line.
func child(kind, path string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	log, err := telemetry.NewLogger(os.Stderr, "text", "info")
	if err != nil {
		return err
	}
	ready := func() { fmt.Println("ready") }
	if kind == kindDebianEtcd {
		ready() // who needs it waits for it
		return execEtcd(path)
	}
	if kind == "etcd" {
		return etcdChild(ctx, path, log, ready)
	}
	c, err := role.Load(path, cluster.Role(kind))
	if err != nil {
		return err
	}
	hooks := role.Hooks{MoverAt: askParent()}
	if os.Getenv(envFree) != "" {
		hooks = role.Hooks{}
	}
	return role.StartWith(ctx, c, log, ready, hooks)
}

// execEtcd becomes Debian's etcd, so that who kills this process kills that. Paths in
// the file are relative to its folder.
func execEtcd(path string) error {
	program, err := lookTool("etcd")
	if err != nil {
		return err
	}
	if err := os.Chdir(filepath.Dir(path)); err != nil {
		return err
	}
	return syscall.Exec(program, []string{"etcd", "--config-file", filepath.Base(path)}, os.Environ())
}

func etcdChild(ctx context.Context, path string, log *slog.Logger, ready func()) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var o embedded.EmbedOptions
	if err := json.Unmarshal(b, &o); err != nil {
		return err
	}
	o.Log = log
	e, err := embedded.StartEmbedded(ctx, o)
	if err != nil {
		return err
	}
	ready()
	<-ctx.Done()
	return e.Close()
}

// askParent stops the mover at each point until the parent says go. Points of
// several moves wait for each other.
func askParent() func(director.User, string) {
	in := bufio.NewReader(os.Stdin)
	var mu sync.Mutex
	return func(u director.User, point string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Println("at", point, u)
		// The end of input is a parent that no longer cares.
		_, _ = in.ReadString('\n')
	}
}
