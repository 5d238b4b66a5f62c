package backend

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"waypost/backend/control"
)

// systemLoad reads what Linux tells of the disk that the mail is on and of the
// network. What it does not tell is 0: nobody yields to it then. The caller
// serialises.
type systemLoad struct {
	root   string // "/", or a test's
	device string // "major minor" of the disk, empty if not known

	at      time.Time // of the last reading
	busyMS  int64     // the disk's time at work
	network map[string]int64

	diskPercent    float64
	pressure       float64
	bytesPerSecond int64
	networkPercent float64
}

// leastBetween is the shortest time between two readings that says something.
const leastBetween = 500 * time.Millisecond

func newSystemLoad(root, disk string) systemLoad {
	s := systemLoad{root: root}
	var st syscall.Stat_t
	if syscall.Stat(disk, &st) == nil {
		// As glibc's gnu_dev_major and gnu_dev_minor have it.
		major := st.Dev>>8&0xfff | st.Dev>>32&^0xfff
		minor := st.Dev&0xff | st.Dev>>12&^0xff
		s.device = fmt.Sprintf("%d %d", major, minor)
	}
	return s
}

func (s *systemLoad) file(path string) string {
	b, err := os.ReadFile(filepath.Join(s.root, path))
	if err != nil {
		return ""
	}
	return string(b)
}

// read takes a reading, and compares it with the last.
func (s *systemLoad) read(now time.Time) {
	span := now.Sub(s.at)
	if span < leastBetween {
		return
	}
	first := s.at.IsZero()
	s.at = now
	busy, network := diskBusy(s.file("proc/diskstats"), s.device), networkBytes(s.file("proc/net/dev"))
	s.pressure = pressure(s.file("proc/pressure/io"))
	if !first {
		s.diskPercent = min(100, 100*float64(busy-s.busyMS)/float64(span.Milliseconds()))
		s.compareNetwork(network, span)
	}
	s.busyMS, s.network = busy, network
}

func (s *systemLoad) compareNetwork(network map[string]int64, span time.Duration) {
	s.bytesPerSecond, s.networkPercent = 0, 0
	for name, n := range network {
		before, known := s.network[name]
		if !known || n < before {
			continue
		}
		rate := float64(n-before) / span.Seconds()
		s.bytesPerSecond += int64(rate)
		// In megabits; -1, or no file, where an interface has no speed.
		speed, err := strconv.ParseFloat(strings.TrimSpace(s.file("sys/class/net/"+name+"/speed")), 64)
		if err == nil && speed > 0 {
			s.networkPercent = max(s.networkPercent, min(100, 100*rate*8/(speed*1e6)))
		}
	}
}

func (s *systemLoad) fill(out *control.LoadReply) {
	out.DiskPercent, out.IOPressurePercent = s.diskPercent, s.pressure
	out.NetworkBytesPerSecond, out.NetworkPercent = s.bytesPerSecond, s.networkPercent
}

// diskBusy gives the milliseconds in which a device was at work: the tenth number
// behind its name in /proc/diskstats.
func diskBusy(text, device string) int64 {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 13 || f[0]+" "+f[1] != device {
			continue
		}
		n, err := strconv.ParseInt(f[12], 10, 64)
		if err != nil {
			return 0
		}
		return n
	}
	return 0
}

// pressure gives the share of the last ten seconds in which somebody waited.
func pressure(text string) float64 {
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, "some avg10=")
		if !ok {
			continue
		}
		number, _, _ := strings.Cut(rest, " ")
		p, err := strconv.ParseFloat(number, 64)
		if err != nil {
			return 0
		}
		return p
	}
	return 0
}

// networkBytes gives what each interface received and sent, by /proc/net/dev. Full
// duplex: the greater of both counts.
func networkBytes(text string) map[string]int64 {
	out := make(map[string]int64)
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(line, ":")
		f := strings.Fields(rest)
		name = strings.TrimSpace(name)
		if !ok || name == "lo" || len(f) < 9 {
			continue
		}
		in, err1 := strconv.ParseInt(f[0], 10, 64)
		sent, err2 := strconv.ParseInt(f[8], 10, 64)
		if err1 == nil && err2 == nil {
			out[name] = max(in, sent)
		}
	}
	return out
}
