/** A file of the page: its path. */
declare module "*-script.js" {
  const path: string;
  export default path;
}
