package main

import (
	"bytes"
	"time"

	"cmkfs/supervisor/api"
)

// Grammar is the command line.
type Grammar = cli

// Exits are the codes of errors that have an exit code.
func Exits() map[api.Code]int {
	all := map[api.Code]int{}
	for code, row := range exits {
		all[code] = row.exit
	}
	return all
}

// Run is the program.
var Run = run

// LoadConfig reads a configuration file.
func LoadConfig(b []byte) error {
	_, err := loadConfig(bytes.NewReader(b))
	return err
}

// ParseSize and ParseSince read values of flags.
func ParseSize(s string) (uint64, error) {
	var n size
	err := n.UnmarshalText([]byte(s))
	return uint64(n), err
}

func ParseSince(s string) (time.Time, error) {
	var at sinceTime
	err := at.UnmarshalText([]byte(s))
	return at.Time, err
}
