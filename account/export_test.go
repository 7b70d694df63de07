package account

// Table is the transition table, for the test that it is complete.
var Table = table

// CheckEvent is how a check's answer becomes an event.
var CheckEvent = checkEvent
