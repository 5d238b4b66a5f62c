//go:build !race

package clustertest

import "testing"

// beside has a test run beside another one: most of their time is waiting.
func beside(t *testing.T) { t.Parallel() }
