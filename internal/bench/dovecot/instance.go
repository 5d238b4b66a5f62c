package dovecot

import (
	"context"
	"errors"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"waypost/internal/bench"
	"waypost/internal/bench/child"
)

// instance is a Dovecot that runs, and may be started again.
type instance struct {
	settings
	path, file string // the program, and its configuration
	process    *child.Process
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func (c settings) lmtpSocket() string { return filepath.Join(c.dir, "lmtp.sock") }

// start returns when it serves.
func (i *instance) start(ctx context.Context) error {
	p, err := child.Start("dovecot", filepath.Join(i.dir, "log"), exec.Command(i.path, "-F", "-c", i.file))
	if err != nil {
		return err
	}
	for _, at := range [][2]string{{"unix", i.lmtpSocket()}, {"tcp", loopback(i.imapPort)}} {
		if err := p.Await(ctx, child.Listens(at[0], at[1])); err != nil {
			return errors.Join(err, p.Stop())
		}
	}
	i.process = p
	return nil
}

// stop ends it; after a failed start there is nothing to end.
func (i *instance) stop() error {
	if i.process == nil {
		return nil
	}
	p := i.process
	i.process = nil
	return p.Stop()
}

func (i *instance) log() string {
	if i.process == nil {
		return ""
	}
	return i.process.Log()
}

// access is bench.Access: everything is below one process.
func (i *instance) access() *bench.Access {
	return &bench.Access{
		POP3: loopback(i.pop3Port), Maildir: filepath.Join(i.dir, "mail", userName(0), "Maildir"), Own: i.own,
		CPU: func() (time.Duration, error) { return bench.TreeCPU(i.process.PID()) },
		Memory: func(context.Context) ([]bench.Memory, error) {
			n, err := bench.TreeMemory(i.process.PID())
			return []bench.Memory{{Resident: n}}, err
		},
		Restart: func(ctx context.Context, between func() error) error {
			if err := errors.Join(i.stop(), between()); err != nil {
				return err
			}
			return i.start(ctx)
		},
	}
}
