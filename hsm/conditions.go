package hsm

// Condition is one of the errors that users know from the document this
// implements, or its like for a PKCS#11 token. An *Error that is such a one
// says so, and errors.Is finds it:
//
//	errors.Is(err, hsm.KeyExpired)
//
// The values cross process boundaries and keep their meaning.
type Condition string

// Configuring a key of a vault.
const (
	KeyNotFound    Condition = "KeyNotFound"
	KeyNotRSA      Condition = "KeyNotRSA"
	KeyNotEnabled  Condition = "KeyNotEnabled"
	KeyExpired     Condition = "KeyExpired"
	KeyNotActive   Condition = "KeyNotActive"
	BadVaultURI    Condition = "BadVaultURI"
	NotRecoverable Condition = "NotRecoverable"
	RegionMismatch Condition = "RegionMismatch"
)

// Volumes under a key of a vault. Unusable and NoConnection have several
// causes; the error's message goes on with the one that was seen.
const (
	NotConfigured Condition = "NotConfigured"
	SourceFixed   Condition = "SourceFixed"
	Unusable      Condition = "Unusable"
	NoConnection  Condition = "NoConnection"
)

// The like for keys on a token.
const (
	TokenKeyNotFound    Condition = "TokenKeyNotFound"
	TokenKeyNotRSA      Condition = "TokenKeyNotRSA"
	TokenKeyForbidden   Condition = "TokenKeyForbidden"
	TokenKeyExpired     Condition = "TokenKeyExpired"
	TokenKeyNotActive   Condition = "TokenKeyNotActive"
	BadTokenURI         Condition = "BadTokenURI"
	TokenNotConfigured  Condition = "TokenNotConfigured"
	TokenPINRefused     Condition = "TokenPINRefused"
	TokenNoPIN          Condition = "TokenNoPIN"
	TokenAbsent         Condition = "TokenAbsent"
	TokenModuleUnusable Condition = "TokenModuleUnusable"
	TokenUnanswered     Condition = "TokenUnanswered"
)

// conditions has the sentence and the resolution of each; the first twelve are
// the document's, to the letter, without its question about a subnet's NAT, for
// which a host has no subnet.
var conditions = map[Condition]struct{ sentence, resolution string }{
	KeyNotFound: {
		"The operation failed because the specified key vault key was not found",
		"When entering key URI manually, ensure that the URI is correct"},
	KeyNotRSA: {
		"Azure Key Vault key is not a valid RSA key",
		"Ensure that the selected key is of type RSA"},
	KeyNotEnabled: {
		"Azure Key Vault key is not enabled",
		"Ensure that the selected key is enabled"},
	KeyExpired: {
		"Azure Key Vault key is expired",
		"Ensure that the selected key is valid"},
	KeyNotActive: {
		"Azure Key Vault key has not been activated",
		"Ensure that the selected key is active"},
	BadVaultURI: {
		"Key Vault URI is invalid",
		"When entering key URI manually, ensure that the URI is correct"},
	NotRecoverable: {
		"Azure Key Vault is not recoverable. Make sure that Soft-delete and Purge protection are both enabled on the Azure Key Vault",
		"Update the key vault recovery level to: Recoverable/Recoverable+ProtectedSubscription/CustomizedRecoverable/CustomizedRecoverable+ProtectedSubscription"},
	RegionMismatch: {
		"Account must be in the same region as the Vault",
		"Ensure the key vault is in the same region as the NetApp account"},
	NotConfigured: {
		"Volume cannot be encrypted with Microsoft.KeyVault, NetAppAccount has not been configured with KeyVault encryption",
		"Your NetApp account doesn't have customer-managed key encryption enabled. Configure the NetApp account to use customer-managed key"},
	SourceFixed: {
		"EncryptionKeySource cannot be changed",
		"No resolution. The EncryptionKeySource property of a volume can't be changed"},
	Unusable: {
		"Unable to use the configured encryption key, please check if key is active",
		"Check that: Are all access policies correct on the key vault: Get, Encrypt, Decrypt? Does a private endpoint for the key vault exist?"},
	NoConnection: {
		"Could not connect to the KeyVault",
		"Ensure that the private endpoint is set up correctly and the firewalls aren't blocking the connection from your Virtual Network to your KeyVault"},

	TokenKeyNotFound: {
		"The operation failed because the specified key was not found on the PKCS#11 token",
		"Ensure that object= and id= of the PKCS#11 URI are those of a private key on the token: cmkfsd account list-keys shows them"},
	TokenKeyNotRSA: {
		"The PKCS#11 key is not a valid RSA key",
		"Ensure that the selected key is of type RSA and has 2048 bits or more"},
	TokenKeyForbidden: {
		"The PKCS#11 key may not be used to decrypt or unwrap",
		"Ensure that CKA_DECRYPT or CKA_UNWRAP of the private key is true, and CKA_ENCRYPT or CKA_WRAP of the public key"},
	TokenKeyExpired: {
		"The PKCS#11 key is expired",
		"Ensure that CKA_END_DATE of the key lies in the future"},
	TokenKeyNotActive: {
		"The PKCS#11 key has not been activated",
		"Ensure that CKA_START_DATE of the key lies in the past"},
	BadTokenURI: {
		"The PKCS#11 URI is invalid",
		"Ensure that the URI is correct: pkcs11:token=T;object=K?module-path=LIB&pin-source=file:FILE"},
	TokenNotConfigured: {
		"Volume cannot be encrypted with PKCS11, NetAppAccount has not been configured with PKCS11 encryption",
		"Configure the account to use a key on a token: cmkfsd account update --pkcs11-uri URI"},
	TokenPINRefused: {
		"The PKCS#11 token does not let the user log in",
		"Correct the PIN in the file that pin-source names, or unlock the PIN with the token's own tool"},
	TokenNoPIN: {
		"The PIN of the PKCS#11 token cannot be read",
		"Write the PIN to a file that only its owner may read, and name it with pin-source=file:/path"},
	TokenAbsent: {
		"The PKCS#11 token is not present",
		"Ensure that the token is plugged in or its device reachable, and that token= and serial= of the URI are the token's: pkcs11-tool --module LIB -L shows them"},
	TokenModuleUnusable: {
		"The PKCS#11 library cannot be loaded",
		"Ensure that module-path= of the URI is the token's PKCS#11 library, for this machine's architecture"},
	TokenUnanswered: {
		"The PKCS#11 token did not answer",
		"Look at the token with its own tool, and at the library's environment (SOFTHSM2_CONF, …)"},
}

// Error is the condition's sentence, which makes it a target for errors.Is.
func (c Condition) Error() string { return conditions[c].sentence }

// Resolution says what to do about it; "" if c is no known condition.
func (c Condition) Resolution() string { return conditions[c].resolution }

// Because is the sentence with the cause that was seen.
func (c Condition) Because(cause string) string { return c.Error() + ": " + cause }
