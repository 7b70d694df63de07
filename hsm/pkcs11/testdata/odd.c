/*
 * A PKCS#11 module for tests: SoftHSM with other manners, all of which the
 * standard allows. ODD_MODULE is the path of SoftHSM, ODD_MANNERS has words:
 *
 *   slots    slots without a token, or with one that was never initialised,
 *            come first
 *   single   C_FindObjects gives one object at a time
 *   sparse   private keys tell neither modulus nor dates nor flags that have a
 *            default
 *   sha1     OAEP with another hash than SHA-1 is a CKR_GENERAL_ERROR
 *   already  C_Login says that somebody has logged in before
 *   zeros    fixed-length texts end in zeros instead of blanks
 *   vendor   the manufacturer is not SoftHSM
 */
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#define CK_PTR *
#ifndef NULL_PTR
#define NULL_PTR 0
#endif
#define CK_DECLARE_FUNCTION(returnType, name) returnType name
#define CK_DECLARE_FUNCTION_POINTER(returnType, name) returnType(*name)
#define CK_CALLBACK_FUNCTION(returnType, name) returnType(*name)
#include "pkcs11.h"

static CK_FUNCTION_LIST_PTR real;
static CK_FUNCTION_LIST odd;

static int has(const char *word) {
	const char *manners = getenv("ODD_MANNERS");
	return manners && strstr(manners, word);
}

enum { EMPTY = 4711, BLANK = 4712 }; /* slot numbers */

static CK_RV get_slot_list(CK_BBOOL present, CK_SLOT_ID_PTR list, CK_ULONG_PTR count) {
	CK_ULONG room = *count, extra = has("slots") ? 2 : 0;
	CK_RV rv;
	if (!list) {
		rv = real->C_GetSlotList(present, NULL_PTR, count);
		*count += extra;
		return rv;
	}
	*count = room > extra ? room - extra : 0;
	rv = real->C_GetSlotList(present, list + extra, count);
	if (extra) {
		list[0] = EMPTY;
		list[1] = BLANK;
	}
	*count += extra;
	return rv;
}

static void end_in_zeros(CK_UTF8CHAR *text, size_t n) {
	while (n > 0 && text[n - 1] == ' ')
		text[--n] = 0;
}

static CK_RV get_token_info(CK_SLOT_ID slot, CK_TOKEN_INFO_PTR info) {
	CK_RV rv;
	if (slot == EMPTY)
		return CKR_TOKEN_NOT_PRESENT;
	if (slot == BLANK) {
		memset(info, ' ', sizeof *info);
		info->flags = 0;
		return CKR_OK;
	}
	rv = real->C_GetTokenInfo(slot, info);
	if (rv == CKR_OK && has("vendor"))
		memcpy(info->manufacturerID, "Oddities, Inc.                  ", sizeof info->manufacturerID);
	if (rv == CKR_OK && has("zeros")) {
		end_in_zeros(info->label, sizeof info->label);
		end_in_zeros(info->manufacturerID, sizeof info->manufacturerID);
		end_in_zeros(info->model, sizeof info->model);
		end_in_zeros(info->serialNumber, sizeof info->serialNumber);
	}
	return rv;
}

static CK_RV find_objects(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE_PTR list, CK_ULONG max, CK_ULONG_PTR count) {
	return real->C_FindObjects(s, list, has("single") && max > 1 ? 1 : max, count);
}

static CK_RV get_attribute_value(CK_SESSION_HANDLE s, CK_OBJECT_HANDLE o, CK_ATTRIBUTE_PTR a, CK_ULONG n) {
	CK_OBJECT_CLASS class = 0;
	CK_ATTRIBUTE ask = {CKA_CLASS, &class, sizeof class};
	if (has("sparse") && n == 1 && real->C_GetAttributeValue(s, o, &ask, 1) == CKR_OK && class == CKO_PRIVATE_KEY)
		switch (a->type) {
		case CKA_MODULUS: case CKA_MODULUS_BITS: case CKA_PUBLIC_EXPONENT:
		case CKA_START_DATE: case CKA_END_DATE: case CKA_ALWAYS_AUTHENTICATE:
			a->ulValueLen = (CK_ULONG)-1;
			return CKR_ATTRIBUTE_TYPE_INVALID;
		}
	return real->C_GetAttributeValue(s, o, a, n);
}

static CK_RV decrypt_init(CK_SESSION_HANDLE s, CK_MECHANISM_PTR m, CK_OBJECT_HANDLE k) {
	if (has("sha1") && m->mechanism == CKM_RSA_PKCS_OAEP && ((CK_RSA_PKCS_OAEP_PARAMS_PTR)m->pParameter)->hashAlg != CKM_SHA_1)
		return CKR_GENERAL_ERROR;
	return real->C_DecryptInit(s, m, k);
}

static CK_RV login(CK_SESSION_HANDLE s, CK_USER_TYPE user, CK_UTF8CHAR_PTR pin, CK_ULONG n) {
	CK_RV rv = real->C_Login(s, user, pin, n);
	return rv == CKR_OK && has("already") ? CKR_USER_ALREADY_LOGGED_IN : rv;
}

CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR list) {
	void *lib = dlopen(getenv("ODD_MODULE"), RTLD_NOW | RTLD_LOCAL);
	CK_C_GetFunctionList get = lib ? (CK_C_GetFunctionList)dlsym(lib, "C_GetFunctionList") : NULL;
	if (!get || get(&real) != CKR_OK)
		return CKR_GENERAL_ERROR;
	odd = *real;
	odd.C_GetSlotList = get_slot_list;
	odd.C_GetTokenInfo = get_token_info;
	odd.C_FindObjects = find_objects;
	odd.C_GetAttributeValue = get_attribute_value;
	odd.C_DecryptInit = decrypt_init;
	odd.C_Login = login;
	*list = &odd;
	return CKR_OK;
}
