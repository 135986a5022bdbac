//! What every kernel's wrapper needs: where a tensor's numbers lie on the card, on which stream, a fresh tensor to write
//! to, and errors with names.
//!
//! A kernel is an exported C function that puts its work on the stream it is given and returns a code. Wrappers take a
//! [`View`] of each tensor, call, and [`check`] the code. Must not know any kernel. Callers: the families beside this file.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::marker::PhantomData;

use candle_core::cuda_backend::CudaStorageSlice as Slice;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, DevicePtr};
use candle_core::op::BackpropOp;
use candle_core::{CudaDevice, CudaStorage, DType, Device, Error, Layout, Result, Shape, Storage, Tensor};

/// Why a kernel did no work.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// The card, cuBLASLt or cuDNN said so.
    #[error("{kernel}: {reason}")]
    Failed {
        /// Exported name.
        kernel: &'static str,
        /// Their words.
        reason: String,
    },
    /// The caller's tensors are not what the kernel takes.
    #[error("{kernel}: expected {expected}, found {found}")]
    Unfit {
        /// Exported name.
        kernel: &'static str,
        /// What it takes.
        expected: &'static str,
        /// What came.
        found: String,
    },
}

impl From<KernelError> for Error {
    fn from(error: KernelError) -> Self {
        Self::Cuda(Box::new(error))
    }
}

/// A cudaStream_t.
pub type Stream = *mut c_void;
/// An address on the card.
pub type Address = *mut c_void;

#[allow(unsafe_code)]
unsafe extern "C" {
    fn marquee_fault(code: c_int) -> *const c_char;
    fn marquee_capability(card: c_int) -> c_int;
}

/// `Ok` for 0, else what the library says about `code`.
///
/// # Errors
/// [`KernelError::Failed`].
#[allow(unsafe_code)]
pub fn check(kernel: &'static str, code: c_int) -> Result<()> {
    if code == 0 {
        return Ok(());
    }
    // SAFETY: the function takes any number and returns a string that ends in 0: a constant of the CUDA runtime, or this
    // thread's last fault, which stands until the thread's next failing call.
    let reason = unsafe { CStr::from_ptr(marquee_fault(code)) }.to_string_lossy().into_owned();
    Err(KernelError::Failed { kernel, reason }.into())
}

/// The number that stands for `dtype` in the kernels' interface (`numeric.cuh`); `None` for formats that they do not take.
pub fn format(dtype: DType) -> Option<c_int> {
    match dtype {
        DType::F32 => Some(0),
        DType::F16 => Some(1),
        DType::BF16 => Some(2),
        _ => None,
    }
}

/// The card's compute capability times ten: 80 for A100, 90 for Hopper; 0 if the card does not say.
#[allow(unsafe_code)]
pub fn capability(device: &CudaDevice) -> usize {
    // SAFETY: takes any number; an unknown card gives 0.
    let capability = unsafe { marquee_capability(device.cuda_stream().context().ordinal() as c_int) };
    usize::try_from(capability).unwrap_or(0)
}

/// A tensor as a kernel reads it. The tensor cannot go away before the view; work put on the tensor's own stream after
/// that is safe because the memory is freed in stream order.
pub struct View<'a> {
    /// Of the first element that the layout names: the start offset is in it.
    pub address: Address,
    /// Shape and strides, in elements.
    pub layout: &'a Layout,
    /// Numbers.
    pub dtype: DType,
    /// Its card.
    pub device: CudaDevice,
    tensor: PhantomData<&'a Tensor>,
}

impl<'a> View<'a> {
    /// Where `tensor` lies.
    ///
    /// # Errors
    /// A tensor that is not on a card, or of a format that no kernel reads.
    pub fn of(tensor: &'a Tensor) -> Result<Self> {
        let (storage, layout) = tensor.storage_and_layout();
        let Storage::Cuda(storage) = &*storage else {
            return Err(KernelError::Unfit {
                kernel: "view",
                expected: "a tensor on a card",
                found: format!("{:?}", tensor.device().location()),
            }
            .into());
        };
        let device = storage.device.clone();
        let (base, size) = match &storage.slice {
            Slice::U8(slice) => (base(slice, &device), 1),
            Slice::U32(slice) => (base(slice, &device), 4),
            Slice::I64(slice) => (base(slice, &device), 8),
            Slice::BF16(slice) => (base(slice, &device), 2),
            Slice::F16(slice) => (base(slice, &device), 2),
            Slice::F32(slice) => (base(slice, &device), 4),
            Slice::F8E4M3(slice) => (base(slice, &device), 1),
            _ => {
                return Err(KernelError::Unfit {
                    kernel: "view",
                    expected: "u8, u32, i64, f8e4m3, bf16, f16 or f32",
                    found: format!("{:?}", tensor.dtype()),
                }
                .into());
            }
        };
        let address = base + (layout.start_offset() * size) as u64;
        // Kernels of the CUDA runtime go to the thread's current card.
        device.cuda_stream().context().bind_to_thread().map_err(|error| Error::Cuda(Box::new(error)))?;
        Ok(Self { address: address as Address, layout, dtype: tensor.dtype(), device, tensor: PhantomData })
    }

    /// The stream that the tensor's work is on.
    pub fn stream(&self) -> Stream {
        self.device.cuda_stream().cu_stream().cast()
    }

    /// Whether `rows` of this tensor can be read 16 bytes at a time.
    pub fn packed(&self, rows: &Rows) -> bool {
        self.aligned(16) && rows.packed(self.dtype)
    }

    /// Whether the address is a multiple of `bytes`: 16 for vector accesses.
    pub fn aligned(&self, bytes: usize) -> bool {
        (self.address as usize).is_multiple_of(bytes)
    }
}

/// How the rows of a tensor (…, columns) lie: `blocks` times `rows` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// Numbers in a row; they are adjacent.
    pub columns: usize,
    /// Rows of a block.
    pub rows: usize,
    /// From a row to the next, in elements.
    pub distance: usize,
    /// Blocks that do not continue each other at the rows' distance; 1 for whatever is contiguous.
    pub blocks: usize,
    /// From a block to the next, in elements.
    pub block_distance: usize,
}

impl Rows {
    /// `None` if columns are not adjacent, or it takes more than two distances to say where the rows are.
    pub fn of(layout: &Layout) -> Option<Self> {
        let (&columns, dims) = layout.dims().split_last()?;
        let (&step, strides) = layout.stride().split_last()?;
        if step != 1 && columns > 1 {
            return None;
        }
        // Dimensions of one have no distance; neighbours that continue each other are one.
        let mut merged: Vec<(usize, usize)> = Vec::with_capacity(2);
        for (&dim, &stride) in dims.iter().zip(strides).filter(|&(&dim, _)| dim != 1) {
            match merged.last_mut() {
                Some((count, distance)) if *distance == dim * stride => {
                    (*count, *distance) = (*count * dim, stride)
                }
                _ => merged.push((dim, stride)),
            }
        }
        let (blocks, (rows, distance)) = match *merged.as_slice() {
            [] => ((1, 0), (1, columns)),
            [rows] => ((1, 0), rows),
            [blocks, rows] => (blocks, rows),
            _ => return None,
        };
        Some(Self { columns, rows, distance, blocks: blocks.0, block_distance: blocks.1 })
    }

    /// The same rows in blocks of `rows` each; `None` if they cannot be cut so.
    pub fn split(self, rows: usize) -> Option<Self> {
        if self.rows == rows {
            return Some(self);
        }
        (self.blocks == 1 && rows > 0 && self.rows.is_multiple_of(rows)).then(|| Self {
            rows,
            blocks: self.rows / rows,
            block_distance: rows * self.distance,
            ..self
        })
    }

    /// Whether every row begins at a multiple of 16 bytes and ends at one, if the first does.
    pub fn packed(&self, dtype: DType) -> bool {
        let pack = 16 / dtype.size_in_bytes();
        [self.columns, self.distance, self.block_distance].iter().all(|count| count.is_multiple_of(pack))
    }
}

/// `address` moved by `elements` of `dtype`.
pub fn advance(address: Address, elements: usize, dtype: DType) -> Address {
    address.wrapping_byte_add(elements * dtype.size_in_bytes())
}

fn base<T>(slice: &CudaSlice<T>, device: &CudaDevice) -> u64 {
    let stream = device.cuda_stream();
    // Event tracking is off (`super::open`), so the guard that would record a read has nothing to do.
    let (address, _guard) = slice.device_ptr(&stream);
    address
}

/// A contiguous tensor with whatever the memory held before: for a kernel that writes all of it.
///
/// # Errors
/// No room on the card; a format that no kernel writes.
#[allow(unsafe_code)]
pub fn empty<S: Into<Shape>>(shape: S, dtype: DType, device: &CudaDevice) -> Result<Tensor> {
    let shape = shape.into();
    let count = shape.elem_count();
    macro_rules! of {
        ($kind:ty) => {{
            // SAFETY: plain numbers, for which every bit pattern is a value; the caller's kernel writes them all before
            // anything on the stream reads them.
            let slice = unsafe { device.alloc::<$kind>(count) }?;
            CudaStorage::wrap_cuda_slice(slice, device.clone())
        }};
    }
    let storage = match dtype {
        DType::U8 => of!(u8),
        DType::U32 => of!(u32),
        DType::BF16 => of!(half::bf16),
        DType::F16 => of!(half::f16),
        DType::F32 => of!(f32),
        _ => {
            return Err(KernelError::Unfit {
                kernel: "empty",
                expected: "u8, u32, bf16, f16 or f32",
                found: format!("{dtype:?}"),
            }
            .into());
        }
    };
    Ok(Tensor::from_storage(Storage::Cuda(storage), shape, BackpropOp::none(), false))
}

/// `operand` with its numbers side by side, for a kernel on `x`'s stream.
///
/// # Errors
/// An operand that would have to be copied and belongs to another stream, in whose order the copy would be made.
pub fn contiguous_for(kernel: &'static str, operand: &Tensor, x: &Tensor) -> Result<Tensor> {
    if !operand.is_contiguous() && !operand.device().same_device(x.device()) {
        return Err(elsewhere(kernel, operand));
    }
    operand.contiguous()
}

/// For an operand that has to be copied for a kernel of another stream.
pub fn elsewhere(kernel: &'static str, operand: &Tensor) -> Error {
    KernelError::Unfit {
        kernel,
        expected: "operands of another stream to lie as the kernel reads them",
        found: format!("{:?} with strides {:?}", operand.shape(), operand.stride()),
    }
    .into()
}

/// The card behind `device`; `None` for a CPU.
pub fn card(device: &Device) -> Option<&CudaDevice> {
    match device {
        Device::Cuda(cuda) => Some(cuda),
        _ => None,
    }
}
