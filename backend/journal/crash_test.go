package journal

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"waypost/internal/vfs/crashfs"
)

// model is what the users of a journal know: what they appended, what was
// acknowledged. A record is applied by writing its data to a file of its name, which
// nobody syncs: only a checkpoint or a replay brings it through a power cut.
type model struct {
	mu      sync.Mutex
	n       int
	written map[string][]byte // every record ever appended
	acked   map[string]bool   // its Wait returned nil
	lsns    map[LSN]string    // no LSN is given twice

	replayed map[string]bool // in this life
}

func newModel() *model {
	return &model{written: map[string][]byte{}, acked: map[string]bool{}, lsns: map[LSN]string{}}
}

// A record's data: length of its name, its name, LSN of its body or 0, filler.
func (m *model) record(body LSN, size int) (name string, data []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.n++
	name = strconv.Itoa(m.n)
	data = append([]byte{byte(len(name))}, name...)
	data = binary.LittleEndian.AppendUint64(data, uint64(body))
	data = append(data, bytes.Repeat([]byte{byte(m.n)}, size)...)
	m.written[name] = data
	return name, data
}

func parse(data []byte) (name string, body LSN) {
	n := int(data[0]) + 1
	return string(data[1:n]), LSN(binary.LittleEndian.Uint64(data[n:]))
}

func (m *model) gave(lsn LSN, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if other, ok := m.lsns[lsn]; ok {
		return fmt.Errorf("record %d was given to %s and to %s", lsn, other, name)
	}
	m.lsns[lsn] = name
	return nil
}

func (m *model) ack(name string) {
	m.mu.Lock()
	m.acked[name] = true
	m.mu.Unlock()
}

func mailPath(name string) string { return filepath.Join(mailDir, name) }

// recover opens the journal that a crash has left, and checks all that it promises.
func (m *model) recover(o Options) (*Journal, error) {
	j, err := Open(o)
	if err != nil {
		return nil, err
	}
	replayed := map[string]bool{}
	var last LSN
	err = j.Replay(func(r Record) error {
		name, body := parse(r.Data)
		switch {
		case !bytes.Equal(m.written[name], r.Data):
			return fmt.Errorf("record %d is not what was appended", r.LSN)
		case replayed[name] || r.LSN <= last || m.lsns[r.LSN] != name:
			return fmt.Errorf("record %d (%s) comes twice or out of order", r.LSN, name)
		case body != 0:
			if data, err := j.Read(body); err != nil || !bytes.Equal(data, m.written[m.lsns[body]]) {
				return fmt.Errorf("body %d of record %d: %w", body, r.LSN, errors.Join(err, ErrCorrupt))
			}
		}
		replayed[name], last = true, r.LSN
		return nil
	})
	if err != nil {
		return j, err
	}
	for name := range m.acked {
		if replayed[name] {
			continue
		}
		if err := hasMail(o.FS, mailPath(name), m.written[name]); err != nil {
			return j, fmt.Errorf("record %s was acknowledged and is lost: %w", name, err)
		}
	}
	for name := range replayed {
		if err := writeMail(o.FS, mailPath(name), m.written[name]); err != nil {
			return j, err
		}
	}
	m.replayed = replayed
	return j, nil
}

// start starts the journal that was recovered. What was replayed must be there from
// then on, even if nobody was told before.
func (m *model) start(j *Journal) error {
	err := j.Start()
	for name := range m.replayed {
		if err == nil {
			m.ack(name)
		}
	}
	return err
}

// deliver appends, applies and checks one record, with a body of its own now and then.
func (m *model) deliver(j *Journal, fsys *crashfs.FS, rng *rand.Rand) error {
	if err := j.Admit(context.Background(), 100); err != nil {
		return err
	}
	var body LSN
	if rng.IntN(3) == 0 {
		name, data := m.record(0, rng.IntN(9000))
		ticket := j.Append("", 1, nil, data)
		defer ticket.Applied()
		body = ticket.LSN()
		if body == 0 {
			return ticket.Wait()
		}
		if err := m.gave(body, name); err != nil {
			panic(err)
		}
		defer j.Pin(body)()
	}
	name, data := m.record(body, rng.IntN(3000))
	ticket := j.Append("u"+strconv.Itoa(rng.IntN(3)), 1, []string{mailPath(name), mailDir}, data[:5], data[5:])
	defer ticket.Applied()
	if ticket.LSN() == 0 {
		return ticket.Wait()
	}
	if err := m.gave(ticket.LSN(), name); err != nil {
		panic(err)
	}
	if rng.IntN(2) == 0 {
		if err := writeMail(fsys, mailPath(name), data); err != nil {
			return err
		}
	}
	if err := ticket.Wait(); err != nil {
		return err
	}
	m.ack(name)
	return writeMail(fsys, mailPath(name), data)
}

// live is one life of a backend: it recovers, delivers, and closes. The error is that
// of the power cut, if there was one; what recovery finds wrong is in bad.
func (m *model) live(fsys *crashfs.FS, rng *rand.Rand, down func() bool) (bad error) {
	o := options(fsys)
	j, err := m.recover(o)
	if j != nil {
		defer func() {
			if err := j.Close(); err != nil && !down() {
				bad = errors.Join(bad, err)
			}
		}()
	}
	if err == nil {
		err = m.start(j)
	}
	for i := 0; err == nil && i < 12; i++ {
		err = m.deliver(j, fsys, rng)
		if err == nil && i%4 == 3 {
			err = j.Checkpoint()
		}
		if err == nil && i%5 == 4 {
			err = j.Flush("u1")
		}
	}
	if err != nil && !down() {
		return err
	}
	return nil
}

// TestCrashAtEveryOperation cuts the power at each operation of a life, and then at
// some operation of each of two more lives on what it left.
func TestCrashAtEveryOperation(t *testing.T) {
	step := int64(1)
	if testing.Short() {
		step = 5
	}
	for n := int64(1); ; n += step {
		rng := rand.New(rand.NewPCG(uint64(n), 7))
		m, fsys := newModel(), newFS(t, uint64(n))
		survived := false
		for life := range 4 {
			at := n
			if life > 0 {
				at = 1 + rng.Int64N(250)
			}
			after, err := cutAt(m, fsys, at, rng, life == 3)
			if err != nil {
				t.Fatalf("operation %d, life %d: %v", n, life, err)
			}
			survived = survived || life == 0 && after == fsys
			fsys = after
		}
		if survived {
			return
		}
	}
}

// cutAt lives a life with a power cut at operation n of it, if it has so many. It gives
// the file system of the next life.
func cutAt(m *model, fsys *crashfs.FS, n int64, rng *rand.Rand, spare bool) (*crashfs.FS, error) {
	var mu sync.Mutex
	var after *crashfs.FS
	cut := rand.New(rand.NewPCG(rng.Uint64(), 1))
	first := fsys.Ops()
	fsys.Fail(func(crashfs.Op) error {
		mu.Lock()
		defer mu.Unlock()
		if after == nil && !spare && fsys.Ops()-first >= n {
			if cut.IntN(5) == 0 {
				after = fsys.Kill()
			} else {
				after = fsys.Crash(cut)
			}
		}
		return nil
	})
	down := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return after != nil
	}
	err := m.live(fsys, rng, down)
	fsys.Fail(nil)
	if !down() {
		return fsys, err
	}
	return after, err
}

// TestConcurrentAppendersProperty has many users at work, with checkpoints beside
// them, and cuts the power at some moment.
func TestConcurrentAppendersProperty(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		seed := rapid.Uint64().Draw(r, "seed")
		lives := rapid.SliceOfN(rapid.Int64Range(1, 400), 1, 4).Draw(r, "power cuts")
		workers := rapid.IntRange(2, 8).Draw(r, "users")
		m, fsys := newModel(), newFS(t, seed)
		for life, n := range lives {
			var mu sync.Mutex
			var after *crashfs.FS
			first := fsys.Ops()
			fsys.Fail(func(crashfs.Op) error {
				mu.Lock()
				defer mu.Unlock()
				if after == nil && fsys.Ops()-first >= n {
					after = fsys.Crash(rand.New(rand.NewPCG(seed, uint64(life))))
				}
				return nil
			})
			crowd(m, fsys, workers, seed)
			mu.Lock()
			if after == nil {
				after = fsys.Crash(rand.New(rand.NewPCG(seed, uint64(life))))
			}
			fsys = after
			mu.Unlock()
			j, err := m.recover(options(fsys))
			if err != nil {
				r.Fatal(err)
			}
			if err := j.Close(); err != nil {
				r.Fatal(err)
			}
		}
	})
}

// crowd lets users deliver until each is done or the power is gone. What was wrong
// before the cut shows in the next recovery.
func crowd(m *model, fsys *crashfs.FS, workers int, seed uint64) {
	j, err := m.recover(options(fsys))
	if err != nil {
		if j != nil {
			_ = j.Close()
		}
		return
	}
	defer func() { _ = j.Close() }()
	if err := m.start(j); err != nil {
		return
	}
	var all sync.WaitGroup
	for w := range workers {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(seed, uint64(w)))
			for i := 0; i < 10 && m.deliver(j, fsys, rng) == nil; i++ {
				if rng.IntN(5) == 0 && j.Checkpoint() != nil {
					return
				}
			}
		})
	}
	all.Wait()
}
