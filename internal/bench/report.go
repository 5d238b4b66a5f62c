package bench

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Row is what one peer did in one case, all rounds together.
type Row struct {
	Peer string `json:"peer"`
	Mode string `json:"mode"`
	Case
	// MessagesPerSecond over all rounds, and of the slowest and quickest one.
	MessagesPerSecond float64 `json:"messages_per_second"`
	Slowest           float64 `json:"slowest_messages_per_second"`
	Quickest          float64 `json:"quickest_messages_per_second"`
	ServerCPUMS       float64 `json:"server_cpu_ms_per_message"`
	GeneratorCPUMS    float64 `json:"generator_cpu_ms_per_message"`
	MedianMS          float64 `json:"median_ms"`
	P99MS             float64 `json:"p99_ms"`
	Messages          int64   `json:"messages"`
	Errors            int64   `json:"errors"`
	// ErrorSamples are some reasons.
	ErrorSamples []string `json:"error_samples,omitempty"`
	// OnDisk was counted after the server had stopped; Acknowledged includes the
	// messages before the measurement.
	OnDisk       int64 `json:"messages_on_disk"`
	Acknowledged int64 `json:"messages_acknowledged"`
	// RateRatio is how many times the rate of this peer Waypost's is; CPURatio
	// how many times Waypost's CPU a message this peer needs. 0 where there is
	// nothing to compare.
	RateRatio float64 `json:"waypost_rate_ratio,omitempty"`
	CPURatio  float64 `json:"waypost_cpu_ratio,omitempty"`
}

func (m *measured) row(p Peer, c Case) Row {
	return Row{Peer: p.Name, Mode: p.Mode, Case: c,
		MessagesPerSecond: m.rate(), Slowest: m.slowest, Quickest: m.quick,
		ServerCPUMS: perMessage(m.server, m.Measured), GeneratorCPUMS: perMessage(m.GeneratorCPU, m.Measured),
		MedianMS: Millis(m.Latencies.Quantile(0.5)), P99MS: Millis(m.Latencies.Quantile(0.99)),
		Messages: m.Measured, Errors: m.Errors, ErrorSamples: m.Samples, OnDisk: m.onDisk, Acknowledged: m.Acknowledged}
}

// Report is what a Suite measured.
type Report struct {
	Rounds int   `json:"rounds"`
	Rows   []Row `json:"rows"`
}

// Ours is the name of the peer that the others are compared with.
const Ours = "waypost"

// compare fills in the ratios.
func (r *Report) compare() {
	ours := make(map[Case]Row)
	for _, row := range r.Rows {
		if row.Peer == Ours {
			ours[row.Case] = row
		}
	}
	for i := range r.Rows {
		row := &r.Rows[i]
		if o, ok := ours[row.Case]; ok && row.Peer != Ours {
			row.RateRatio = Ratio(o.MessagesPerSecond, row.MessagesPerSecond)
			row.CPURatio = Ratio(row.ServerCPUMS, o.ServerCPUMS)
		}
	}
}

var heads = []string{"server", "mode", "filters", "bytes", "conns", "messages/s", "slowest–quickest", "CPU ms", "generator ms", "median ms", "p99 ms", "errors", "rate ×", "CPU ×"}

func (row Row) Cells() []string {
	times := func(f float64) string {
		if f == 0 {
			return "–"
		}
		return fmt.Sprintf("%.1f", f)
	}
	generator := fmt.Sprintf("%.3f", row.GeneratorCPUMS)
	if row.GeneratorCPUMS == 0 {
		generator = "–"
	}
	return []string{row.Peer, row.Mode, row.Filters(), fmt.Sprint(row.Size), fmt.Sprint(row.Connections),
		fmt.Sprintf("%.0f", row.MessagesPerSecond), fmt.Sprintf("%.0f–%.0f", row.Slowest, row.Quickest),
		fmt.Sprintf("%.3f", row.ServerCPUMS), generator,
		fmt.Sprintf("%.2f", row.MedianMS), fmt.Sprintf("%.2f", row.P99MS), fmt.Sprint(row.Errors),
		times(row.RateRatio), times(row.CPURatio)}
}

// Table prints the rows for a terminal, Markdown for a document.
func (r *Report) Table(w io.Writer) error { return Table(w, heads, Cells(r.Rows)) }

// Markdown prints the rows as a table in Markdown.
func (r *Report) Markdown(w io.Writer) error { return Markdown(w, heads, Cells(r.Rows)) }

// Cells are those of all rows.
func Cells[R interface{ Cells() []string }](rows []R) [][]string {
	cells := make([][]string, len(rows))
	for i, row := range rows {
		cells[i] = row.Cells()
	}
	return cells
}

// Table writes rows for a terminal.
func Table(w io.Writer, heads []string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, strings.ToUpper(strings.Join(heads, "\t")))
	for _, row := range rows {
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	return t.Flush()
}

// Markdown writes rows as a table in Markdown.
func Markdown(w io.Writer, heads []string, rows [][]string) error {
	lines := []string{"| " + strings.Join(heads, " | ") + " |", strings.Repeat("|---", len(heads)) + "|"}
	for _, row := range rows {
		lines = append(lines, "| "+strings.Join(row, " | ")+" |")
	}
	_, err := io.WriteString(w, strings.Join(lines, "\n")+"\n")
	return err
}
