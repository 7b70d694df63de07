package main

import "cmkfs/supervisor/api"

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
