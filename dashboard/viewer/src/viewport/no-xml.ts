// vtk.js would bring an XML writer for files that nobody writes here, and it needs modules of Node.
export function create(): never {
  throw new Error("XML is not written here");
}
