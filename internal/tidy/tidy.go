// Package tidy holds the tests that keep the house in order: import
// directions, file lengths, what lies at the top level. It has no other code.
package tidy
