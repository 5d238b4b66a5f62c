package journal

import (
	"github.com/prometheus/client_golang/prometheus"

	"waypost/internal/telemetry"
)

// metrics are listed in docs/metrics.md.
type metrics struct {
	bytes, records, batches prometheus.Counter
	batchRecords            prometheus.Histogram
	commit, checkpoint      prometheus.Histogram
	checkpointErrors        prometheus.Counter
	prepareErrors           prometheus.Counter
	size, failed            prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := telemetry.NewMetrics(reg, "journal")
	seconds := prometheus.ExponentialBuckets(0.0001, 2, 18)
	made := &metrics{
		bytes:            m.Counter("appended_bytes_total", "Bytes written to the journal, padding included."),
		records:          m.Counter("records_total", "Records made durable."),
		batches:          m.Counter("batches_total", "Batches made durable: one write and one flush each."),
		batchRecords:     m.Histogram("batch_records", "Records that shared a batch.", prometheus.ExponentialBuckets(1, 2, 12)),
		commit:           m.Histogram("commit_seconds", "Time to write and flush a batch.", seconds),
		checkpoint:       m.Histogram("checkpoint_seconds", "Time of a checkpoint.", seconds),
		checkpointErrors: m.Counter("checkpoint_errors_total", "Checkpoints that failed; the journal grows meanwhile."),
		prepareErrors:    m.Counter("prepare_errors_total", "Segments that could not be made ready, mostly for want of space."),
		size:             m.Gauge("size_bytes", "Bytes that a start would have to read."),
		failed:           m.Gauge("failed", "1 once a write or flush failed and the backend must be started again. Page on it."),
	}
	// A registry may have that of a journal that failed before.
	made.failed.Set(0)
	return made
}
