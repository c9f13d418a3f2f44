/** Pictures. Each stands next to words or in a button that has a name, so none has one of its own. */

export function Mark() {
  return (
    <svg class="mark" viewBox="0 0 32 32" aria-hidden="true">
      <rect width="32" height="32" rx="9" />
      <path d="M5 17h5l3-8 5 15 3.5-9 1.5 2h4" />
    </svg>
  );
}

function Icon({ path }: { path: string }) {
  return (
    <svg class="icon" viewBox="0 0 24 24" aria-hidden="true">
      <path d={path} />
    </svg>
  );
}

export const Back = () => <Icon path="M15 5l-7 7 7 7" />;
export const Send = () => <Icon path="M5 12l15-7-5 15-3-6-7-2z" />;
export const Down = () => <Icon path="M12 5v14M6 13l6 6 6-6" />;
export const Leave = () => <Icon path="M14 4H6v16h8M11 12h10M17 8l4 4-4 4" />;
/** Two people. */
const PEOPLE = [
  "M9 11a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7z",
  "M2.5 20c0-3.6 2.9-6 6.5-6s6.5 2.4 6.5 6",
  "M16 4.3a3.5 3.5 0 0 1 0 6.4M18 14.5c2.1.8 3.5 2.8 3.5 5.5",
].join("");
export const Everybody = () => <Icon path={PEOPLE} />;
