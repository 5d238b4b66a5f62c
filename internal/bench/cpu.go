package bench

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// tick is what /proc counts in: USER_HZ is 100 on every Linux that Go runs on.
const tick = time.Second / 100

// SelfCPU is the CPU time that this process has used, without its children.
func SelfCPU() (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("getrusage: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// procStat is what /proc/PID/stat says that matters here.
type procStat struct {
	parent int
	own    time.Duration // utime + stime
	reaped time.Duration // cutime + cstime: of children that ended, and theirs
}

// maxTicks is more than any process uses, and keeps sums of durations in range.
const maxTicks = 1 << 36

var errStat = errors.New("malformed /proc stat")

// parseStat reads a line of /proc/PID/stat (proc(5)). The second field is a name
// in parentheses that may hold anything.
func parseStat(line []byte) (procStat, error) {
	end := bytes.LastIndexByte(line, ')')
	if end < 0 {
		return procStat{}, errStat
	}
	f := bytes.Fields(line[end+1:])
	if len(f) < 15 {
		return procStat{}, errStat
	}
	var n [5]int64
	for i, at := range []int{1, 11, 12, 13, 14} { // ppid, utime, stime, cutime, cstime
		v, err := strconv.ParseInt(string(f[at]), 10, 64)
		if err != nil || v < 0 || v > maxTicks {
			return procStat{}, errStat
		}
		n[i] = v
	}
	return procStat{int(n[0]), time.Duration(n[1]+n[2]) * tick, time.Duration(n[3]+n[4]) * tick}, nil
}

// TreeCPU is the CPU time that the process and all its descendants have used,
// those that ended and were waited for included.
func TreeCPU(pid int) (time.Duration, error) {
	stats, err := readProcs()
	if err != nil {
		return 0, err
	}
	if _, ok := stats[pid]; !ok {
		return 0, fmt.Errorf("process %d: %w", pid, os.ErrProcessDone)
	}
	var total time.Duration
	for p, s := range stats {
		if descends(stats, p, pid) {
			total += max(s.own, exact(p)) + s.reaped
		}
	}
	return total, nil
}

func readProcs() (map[int]procStat, error) {
	paths, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	stats := make(map[int]procStat, len(paths))
	for _, p := range paths {
		pid, err := strconv.Atoi(filepath.Base(p))
		if err != nil {
			continue
		}
		b, err := os.ReadFile(filepath.Join(p, "stat"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it ended meanwhile
		}
		if err != nil {
			return nil, err
		}
		if stats[pid], err = parseStat(b); err != nil {
			return nil, fmt.Errorf("process %d: %w", pid, err)
		}
	}
	return stats, nil
}

// descends tells whether p is root or one of its descendants.
func descends(stats map[int]procStat, p, root int) bool {
	for range len(stats) { // a parent may have ended and its number come again
		if p == root {
			return true
		}
		s, ok := stats[p]
		if !ok {
			return false
		}
		p = s.parent
	}
	return false
}

// exact is what the scheduler counted for the threads of a process, to the
// nanosecond; it lacks those that ended, so that whoever asks takes the larger of
// this and the ticks. 0 where the kernel does not tell.
func exact(pid int) time.Duration {
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil {
		return 0
	}
	var total time.Duration
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		run, _, _ := bytes.Cut(b, []byte(" "))
		n, err := strconv.ParseInt(string(run), 10, 64)
		if err != nil {
			return 0
		}
		total += time.Duration(n)
	}
	return total
}
