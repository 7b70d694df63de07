package worker

// The two stages of confinement, for a test that looks at what is left.
var (
	Stage1      = stage1
	EnterStage2 = enterStage2
)

// ArgStage2 marks the second stage.
const ArgStage2 = argStage2

// SendRaw sends a packet as it is.
func SendRaw(c *Conn, packet []byte) error {
	_, _, err := c.socket.WriteMsgUnix(packet, nil, nil)
	return err
}
