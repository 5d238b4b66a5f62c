// Package child runs a server as a child process for a measurement, with its
// output in a file, waits until it serves, and ends it in order.
//
// A child ends with the program that started it, also where that is killed. Stop
// must be called once; it returns when the process is gone.
package child

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"
)

const (
	startWait = 30 * time.Second
	stopWait  = 60 * time.Second
	pollEvery = 20 * time.Millisecond
	// maxLog is how much of its log an error shows, in bytes.
	maxLog = 2000
)

// Process is a child.
type Process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // set before
}

// Start runs cmd. What it says is added to the file log; name is for errors.
func Start(name, log string, cmd *exec.Cmd) (*Process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Close() // the child has its own
	cmd.Stdout, cmd.Stderr = f, f
	// A group of its own: Ctrl-C is for us, and we end it in order.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Process{name: name, log: log, cmd: cmd, done: make(chan struct{})}
	go func() { // ends with the process, for which Stop waits
		p.err = cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// PID is the process's number.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Log is the end of its log.
func (p *Process) Log() string {
	b, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-maxLog):])
}

// Await tries until try succeeds, and fails when the process ends before.
func (p *Process) Await(ctx context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	t := time.NewTicker(pollEvery)
	defer t.Stop()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return fmt.Errorf("%s ended: %v; it said: %s", p.name, p.err, p.Log())
		case <-ctx.Done():
			return fmt.Errorf("%s does not serve: %w; it said: %s", p.name, err, p.Log())
		case <-t.C:
		}
	}
}

// Listens is a try for Await.
func Listens(network, addr string) func(context.Context) error {
	return func(ctx context.Context) error {
		var d net.Dialer
		c, err := d.DialContext(ctx, network, addr)
		if err != nil {
			return err
		}
		return c.Close()
	}
}

// ErrEnded: the process had ended by itself.
var ErrEnded = errors.New("ended by itself")

// Stop ends the process by SIGTERM, and where that takes too long by SIGKILL.
func (p *Process) Stop() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s %w: %v; it said: %s", p.name, ErrEnded, p.err, p.Log())
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	t := time.NewTimer(stopWait)
	defer t.Stop()
	select {
	case <-p.done:
		return nil
	case <-t.C:
		_ = p.cmd.Process.Kill() // it is late already
		<-p.done
		return fmt.Errorf("%s did not end within %s; it said: %s", p.name, stopWait, p.Log())
	}
}
