package move

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"

	"waypost/internal/bench/child"
)

// ErrNoRsync: it is not installed.
var ErrNoRsync = errors.New("rsync is not installed (Debian: rsync)")

func findRsync() error {
	if _, err := exec.LookPath("rsync"); err != nil {
		return ErrNoRsync
	}
	return nil
}

// Rsync is "rsync -a --delete" to a daemon on the loopback. It does not sync what it
// writes.
func Rsync() Peer { return Peer{Name: "rsync", Mode: "daemon, no fsync", Start: startRsync} }

func startRsync(ctx context.Context, dir string) (*Sides, error) {
	path, err := exec.LookPath("rsync")
	if err != nil {
		return nil, ErrNoRsync
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port := ln.Addr().(*net.TCPAddr).Port
	if err := ln.Close(); err != nil {
		return nil, err
	}
	source, target, conf := filepath.Join(dir, "source"), filepath.Join(dir, "target"), filepath.Join(dir, "rsyncd.conf")
	text := fmt.Sprintf("use chroot = no\naddress = 127.0.0.1\nport = %d\npid file = %s\nuid = %d\ngid = %d\n[mail]\npath = %s\nread only = no\n",
		port, filepath.Join(dir, "rsyncd.pid"), os.Getuid(), os.Getgid(), target)
	if err := errors.Join(os.Mkdir(source, 0o755), os.Mkdir(target, 0o755), os.WriteFile(conf, []byte(text), 0o600)); err != nil {
		return nil, err
	}
	p, err := child.Start("rsync", filepath.Join(dir, "log"), exec.Command(path, "--daemon", "--no-detach", "--config="+conf))
	if err != nil {
		return nil, err
	}
	if err := p.Await(ctx, child.Listens("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))); err != nil {
		return nil, errors.Join(err, p.Stop())
	}
	return &Sides{
		Source: filepath.Join(source, "Maildir"), Target: filepath.Join(target, "Maildir"), Stop: p.Stop,
		Pass: func(ctx context.Context) error {
			out, err := exec.CommandContext(ctx, path, "-a", "--delete", source+"/", fmt.Sprintf("rsync://127.0.0.1:%d/mail/", port)).CombinedOutput()
			if err != nil {
				return fmt.Errorf("rsync: %w: %s", err, out)
			}
			return nil
		},
	}, nil
}
