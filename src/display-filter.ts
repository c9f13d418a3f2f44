/**
 * Characters that move the cursor, reorder a text or hide words in it: control characters, line and paragraph
 * separators, and invisible characters (Default_Ignorable_Code_Point, and U+FFF9 to U+FFFB), such as direction marks,
 * zero-width spaces, tags and fillers. The joiners U+200C and U+200D and the variation selectors are not among them:
 * Persian, Indic scripts and emoji need them.
 */
const UNSAFE = /[[\p{Cc}\p{Zl}\p{Zp}\p{DI}\ufff9-\ufffb]--[\u200c\u200d\ufe00-\ufe0f\u{e0100}-\u{e01ef}]]/gv;

/** Removes unsafe characters from a text for a terminal; a tab becomes a space. */
export function filterText(text: string): string {
  return text.replace(/\t/g, " ").replace(UNSAFE, "");
}
