package access

import (
	"fmt"
	"io"

	"waypost/internal/bench"
)

// State is what a server has of a mailbox when an operation begins.
type State string

// The states: NoIndex is a Maildir that the server never saw. Cold is a server that was
// started again, where the system has forgotten the disk; Restarted the same where we may not
// make it forget.
const (
	NoIndex   State = "no index"
	Warm      State = "warm"
	Cold      State = "cold"
	Restarted State = "restarted"
)

// Row is what one operation takes one server. Durations are of one operation, as its
// name says: the FETCH of the whole mailbox, or one of 1,000 APPENDs.
type Row struct {
	Peer      string  `json:"peer"`
	Mode      string  `json:"mode"`
	Messages  int     `json:"messages"` // in the mailbox, about
	State     State   `json:"state"`
	Operation string  `json:"operation"`
	Times     int     `json:"times"` // how many were measured, in all rounds
	WallMS    float64 `json:"wall_ms"`
	CPUMS     float64 `json:"server_cpu_ms"`
	// WallRatio is how many times as fast as this server Waypost is, CPURatio how many
	// times Waypost's CPU this server needs; 0 where there is nothing to compare.
	WallRatio float64 `json:"waypost_rate_ratio,omitempty"`
	CPURatio  float64 `json:"waypost_cpu_ratio,omitempty"`
}

// IdleRow is what a part of a server needs for one more selected session that is idle.
type IdleRow struct {
	Peer     string `json:"peer"`
	Mode     string `json:"mode"`
	Messages int    `json:"messages"`
	Sessions int    `json:"sessions"`
	Part     string `json:"part,omitempty"` // "backend", "proxy"; "": all
	// ResidentKiB is the memory of the processes by the session, LiveKiB what of it is in use,
	// StackKiB what of that are stacks; 0 where that is not told.
	ResidentKiB float64 `json:"resident_kib"`
	LiveKiB     float64 `json:"live_kib,omitempty"`
	StackKiB    float64 `json:"stack_kib,omitempty"`
}

// Report is what a Suite measured.
type Report struct {
	Rounds int       `json:"rounds"`
	Rows   []Row     `json:"rows"`
	Idle   []IdleRow `json:"idle_sessions"`
}

type rowKey struct {
	messages  int
	state     State
	operation string
}

func (r Row) key() rowKey { return rowKey{r.Messages, r.State, r.Operation} }

// compare puts rows of one operation together, and fills in the ratios.
func (r *Report) compare() {
	ours := make(map[rowKey]Row)
	at := make(map[rowKey][]Row)
	var order []rowKey
	for _, row := range r.Rows {
		k := row.key()
		if at[k] == nil {
			order = append(order, k)
		}
		at[k] = append(at[k], row)
		if row.Peer == bench.Ours {
			ours[k] = row
		}
	}
	r.Rows = r.Rows[:0]
	for _, k := range order {
		for _, row := range at[k] {
			if o, ok := ours[k]; ok && row.Peer != bench.Ours {
				row.WallRatio, row.CPURatio = bench.Ratio(row.WallMS, o.WallMS), bench.Ratio(row.CPUMS, o.CPUMS)
			}
			r.Rows = append(r.Rows, row)
		}
	}
}

var (
	heads     = []string{"messages", "state", "operation", "server", "mode", "times", "wall ms", "CPU ms", "rate ×", "CPU ×"}
	idleHeads = []string{"messages", "server", "mode", "part", "idle sessions", "resident KiB each", "live KiB each", "of that stacks"}
)

func times(f float64) string {
	switch {
	case f == 0:
		return "–"
	case f < 10:
		return fmt.Sprintf("%.2f", f)
	}
	return fmt.Sprintf("%.0f", f)
}

// Cells are a line of the table.
func (r Row) Cells() []string {
	return []string{fmt.Sprint(r.Messages), string(r.State), r.Operation, r.Peer, r.Mode, fmt.Sprint(r.Times),
		fmt.Sprintf("%.3f", r.WallMS), fmt.Sprintf("%.3f", r.CPUMS), times(r.WallRatio), times(r.CPURatio)}
}

// Cells are a line of the table.
func (r IdleRow) Cells() []string {
	part := r.Part
	if part == "" {
		part = "all"
	}
	kib := func(f float64) string {
		if f == 0 {
			return "–"
		}
		return fmt.Sprintf("%.1f", f)
	}
	return []string{fmt.Sprint(r.Messages), r.Peer, r.Mode, part, fmt.Sprint(r.Sessions), kib(r.ResidentKiB), kib(r.LiveKiB), kib(r.StackKiB)}
}

// Table prints the rows for a terminal, Markdown for a document.
func (r *Report) Table(w io.Writer) error { return r.print(w, bench.Table) }

// Markdown prints the rows as tables in Markdown.
func (r *Report) Markdown(w io.Writer) error { return r.print(w, bench.Markdown) }

func (r *Report) print(w io.Writer, table func(io.Writer, []string, [][]string) error) error {
	if err := table(w, heads, bench.Cells(r.Rows)); err != nil || len(r.Idle) == 0 {
		return err
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return table(w, idleHeads, bench.Cells(r.Idle))
}
