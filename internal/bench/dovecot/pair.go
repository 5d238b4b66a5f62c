package dovecot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"waypost/internal/bench"
)

// Pair is two Dovecots, of which one can be brought up to date with the other.
type Pair struct {
	// Source and Target are the Maildirs of one user.
	Source, Target string

	from, to *instance
	doveadm  string
}

// StartPair runs two Dovecots in dir.
func StartPair(ctx context.Context, dir string) (*Pair, error) {
	p := &Pair{}
	doveadm, err := exec.LookPath("doveadm")
	if err != nil {
		return nil, ErrMissing
	}
	p.doveadm = doveadm
	if p.from, err = startOne(ctx, filepath.Join(dir, "a")); err != nil {
		return nil, err
	}
	if p.to, err = startOne(ctx, filepath.Join(dir, "b")); err != nil {
		return nil, errors.Join(err, p.from.stop())
	}
	p.Source, p.Target = p.from.maildir(), p.to.maildir()
	return p, nil
}

func (i *instance) maildir() string { return filepath.Join(i.dir, "mail", userName(0), "Maildir") }

func startOne(ctx context.Context, dir string) (*instance, error) {
	path, err := Find()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	setup := bench.Setup{Users: 1}
	conf, err := configure(dir, setup, Options{Fsync: "optimized", Processes: 1})
	if err != nil {
		return nil, err
	}
	if conf.doveadmPort, err = freePort(); err != nil {
		return nil, err
	}
	if err := makeMail(conf, setup); err != nil {
		return nil, err
	}
	i := &instance{path: path, file: filepath.Join(conf.dir, "dovecot.conf"), settings: conf}
	if err := os.WriteFile(i.file, []byte(conf.render()), 0o644); err != nil {
		return nil, err
	}
	return i, i.start(ctx)
}

// Own gives what was put into the source's Maildir to the owner of all mail.
func (p *Pair) Own() error { return p.from.own(filepath.Join(p.from.dir, "mail")) }

// Backup makes the target what the source is: "doveadm backup" over TCP.
func (p *Pair) Backup(ctx context.Context) error {
	out, err := exec.CommandContext(ctx, p.doveadm, "-c", p.from.file, "backup", "-u", userName(0), fmt.Sprintf("tcp:127.0.0.1:%d", p.to.doveadmPort)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("doveadm backup: %w: %s", err, out)
	}
	return nil
}

// Stop ends both.
func (p *Pair) Stop() error { return errors.Join(p.from.stop(), p.to.stop()) }
