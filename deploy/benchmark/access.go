package benchmark

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"waypost/deploy/role"
	"waypost/deploy/up"
	"waypost/director"
	"waypost/internal/bench"
	"waypost/internal/bench/child"
)

// manySessions lets one user have as many as are measured.
var manySessions = role.Login{MaxPerUser: 50_000, MaxPerAddress: 50_000, MaxPerUserAddress: 50_000}

// part is a process of ours that stands between the client and the disk.
type part struct {
	name      string
	telemetry string // host:port
	process   func() *child.Process
}

// accessTo is bench.Access: the proxy and the backend are measured.
func (i *instance) accessTo(b, p up.Unit, user bench.Recipient) *bench.Access {
	parts := []part{
		{"backend", b.Config.Node.Metrics, func() *child.Process { return i.backend }},
		{"proxy", p.Config.Node.Metrics, func() *child.Process { return i.proxy }},
	}
	return &bench.Access{
		POP3:    p.Config.Proxy.POP3[0],
		Maildir: filepath.Join(userFolder(b.Config.Backend.Data, director.User(user.Address)), "Maildir"),
		Own:     func(string) error { return nil }, // the backend runs as we do
		CPU: func() (sum time.Duration, err error) {
			for _, p := range parts {
				d, err := bench.TreeCPU(p.process().PID())
				if err != nil {
					return 0, err
				}
				sum += d
			}
			return sum, nil
		},
		Memory: func(ctx context.Context) (all []bench.Memory, err error) {
			for _, p := range parts {
				m, err := p.memory(ctx)
				if err != nil {
					return nil, err
				}
				all = append(all, m)
			}
			return all, nil
		},
		Restart: func(ctx context.Context, between func() error) error {
			if err := errors.Join(i.stopChildren(), between()); err != nil {
				return err
			}
			return i.children(ctx, true)
		},
		Profile: func(file string, d time.Duration) func() error {
			var taken []*profile
			for _, p := range parts {
				taken = append(taken, takeProfile(p.telemetry, d, file+"-"+p.name))
			}
			return func() error {
				var errs []error
				for _, t := range taken {
					errs = append(errs, t.wait())
				}
				return errors.Join(errs...)
			}
		},
		HeapProfile: func(ctx context.Context, file string) error {
			for _, p := range parts {
				b, err := get(ctx, "http://"+p.telemetry+"/debug/pprof/heap?gc=1")
				if err == nil {
					err = os.WriteFile(file+"-"+p.name, b, 0o644)
				}
				if err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// collections are enough for pools to be emptied, and for a stack that was used once to
// shrink: each halves it.
const collections = 6

// memory collects garbage, and looks at what is left.
func (p part) memory(ctx context.Context) (bench.Memory, error) {
	for range collections {
		// A heap profile with gc=1 runs the collector first (net/http/pprof).
		if _, err := get(ctx, "http://"+p.telemetry+"/debug/pprof/heap?gc=1"); err != nil {
			return bench.Memory{}, err
		}
	}
	text, err := get(ctx, "http://"+p.telemetry+"/metrics")
	if err != nil {
		return bench.Memory{}, err
	}
	heap, err := gauge(text, "go_memstats_heap_alloc_bytes")
	if err != nil {
		return bench.Memory{}, err
	}
	stacks, err := gauge(text, "go_memstats_stack_inuse_bytes")
	if err != nil {
		return bench.Memory{}, err
	}
	resident, err := bench.TreeMemory(p.process().PID())
	return bench.Memory{Part: p.name, Resident: resident, Live: heap + stacks, Stacks: stacks}, err
}

func get(ctx context.Context, url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, startWait)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, res.Status)
	}
	return io.ReadAll(res.Body)
}

// gauge finds a metric without labels in the text form of Prometheus.
func gauge(text []byte, want string) (int64, error) {
	for sc := bufio.NewScanner(bytes.NewReader(text)); sc.Scan(); {
		name, value, _ := bytes.Cut(sc.Bytes(), []byte(" "))
		if string(name) != want {
			continue
		}
		v, err := strconv.ParseFloat(string(value), 64)
		if err != nil {
			return 0, fmt.Errorf("metric %s: %w", want, err)
		}
		return int64(v), nil
	}
	return 0, fmt.Errorf("no metric %s", want)
}
