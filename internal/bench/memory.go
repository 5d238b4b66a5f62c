package bench

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// TreeMemory is the memory that the process and all its descendants hold, in bytes:
// pages that several share count for a share (proc(5), Pss).
func TreeMemory(pid int) (int64, error) {
	stats, err := readProcs()
	if err != nil {
		return 0, err
	}
	if _, ok := stats[pid]; !ok {
		return 0, fmt.Errorf("process %d: %w", pid, os.ErrProcessDone)
	}
	var total int64
	for p := range stats {
		if !descends(stats, p, pid) {
			continue
		}
		b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p), "smaps_rollup"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // it ended meanwhile
		}
		if err != nil {
			return 0, err
		}
		n, err := parsePss(b)
		if err != nil {
			return 0, fmt.Errorf("process %d: %w", p, err)
		}
		total += n
	}
	return total, nil
}

var errRollup = errors.New("malformed /proc smaps_rollup")

// parsePss finds the line "Pss: N kB". A process without memory of its own has none.
func parsePss(b []byte) (int64, error) {
	for sc := bufio.NewScanner(bytes.NewReader(b)); sc.Scan(); {
		f := bytes.Fields(sc.Bytes())
		if len(f) != 3 || string(f[0]) != "Pss:" {
			continue
		}
		n, err := strconv.ParseInt(string(f[1]), 10, 40)
		if err != nil || n < 0 {
			return 0, errRollup
		}
		return n << 10, nil
	}
	return 0, nil
}
